"""The tokens of a text encoder: tokenizer of the base, prompt, padding and truncation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lightning_modules.core.errors import ModelError
from lightning_modules.networks.text.base import quiet


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


def prefix_ids(tokenizer: Any, prompt: str) -> tuple[list[int], int]:
    """Tokens before every text (the beginning of a text where the base has such a token, then the prompt), and how
    many of them stand before the prompt."""
    special = tokenizer("")["input_ids"]
    begin = [token for token in special[:1] if token == tokenizer.bos_token_id]
    words = tokenizer(f"{prompt.strip()} ", add_special_tokens=False)["input_ids"] if prompt.strip() else []
    return begin + words, len(begin)


def tokenize(tokenizer: Any, prefix: list[int], texts: list[str], max_length: int) -> dict[str, torch.Tensor]:
    """Texts as `input_ids` and `attention_mask`, int64 [B, T]; prefix and text are tokenised apart."""
    parts = tokenizer(texts, add_special_tokens=False)["input_ids"]
    # A text without any token still needs one to pool.
    rows = [(prefix + part)[:max_length] or [tokenizer.pad_token_id] for part in parts]
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), int(tokenizer.pad_token_id))
    mask = torch.zeros(len(rows), width, dtype=torch.int64)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    return {"input_ids": ids, "attention_mask": mask}
