"""The tokens of a text encoder: tokenizer of the base, prompt, padding and truncation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from lightning_modules.core.errors import ModelError
from lightning_modules.core.missing import MISSING
from lightning_modules.networks.text.language_model import quiet


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a base, padding on the right; without a padding token of its own it pads with the last one.

    Raises:
        ModelError: if there is none.
    """
    from transformers import AutoTokenizer

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right", truncation_side="right")
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"The base {folder.name} has no tokenizer that can be read ({type(error).__name__})."
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def begin_ids(tokenizer: Any) -> list[int]:
    """Tokens before everything: the beginning of a text, where the base has such a token."""
    return [token for token in tokenizer("")["input_ids"][:1] if token == tokenizer.bos_token_id]


def word_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of every text, without those that the base puts around one."""
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return ids


def prompt_ids(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    """The tokens of every prompt; prompt and text are tokenised apart, with a space between them."""
    return word_ids(tokenizer, [f"{prompt.strip()} " for prompt in prompts])


def padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Rows of different lengths as int64 [B, T], filled up on the right."""
    return pad_sequence([torch.tensor(row, dtype=torch.int64) for row in rows], batch_first=True, padding_value=value)


def tokenize(tokenizer: Any, prefix: list[int], texts: list[str], max_length: int) -> dict[str, torch.Tensor]:
    """Texts as `input_ids` and `attention_mask`, int64 [B, T]; every one begins with the prefix and is cut off."""
    pad = int(tokenizer.pad_token_id)
    # A text without any token still needs one to pool.
    rows = [(prefix + part)[:max_length] or [pad] for part in word_ids(tokenizer, texts)]
    return {"input_ids": padded(rows, pad), "attention_mask": padded([[1] * len(row) for row in rows], 0)}


def predicting(labels: torch.Tensor) -> torch.Tensor:
    """Where in the flattened batch the states lie that predict tokens: that of token t at t - 1.

    Args:
        labels: int64 [B, T], the token where it is to be predicted, -100 elsewhere; the first cannot be.

    Returns:
        int64 [M]; their number has to be waited for where the labels lie on a GPU.
    """
    text, place = (labels[:, 1:] != MISSING).nonzero().unbind(dim=1)
    return text * labels.shape[1] + place


def shifted(
    states: torch.Tensor, labels: torch.Tensor, places: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The states that predict tokens: token t from the state at t - 1, as the base was trained to.

    Args:
        states: [B, T, H].
        labels: int64 [B, T], as of `predicting`.
        places: int64 [M], what `predicting` said of the labels before they were brought to the device.

    Returns:
        States [M, H], tokens int64 [M] and the text of each int64 [M], in the order of the batch.
    """
    places = predicting(labels) if places is None else places
    return states.flatten(0, 1)[places], labels.flatten()[places + 1], places // labels.shape[1]
