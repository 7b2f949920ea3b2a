"""Reports as tokens, some of them masked: what a text encoder's collate does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from datamodules.batch import MISSING
from datamodules.errors import DataError

Replacement = Literal["bert", "all"]


class ReportTokenizer:
    """Texts as padded tokens, the way that a text encoder of the same base, prompt and length does it.

    Args:
        base: Folder or hub id of the base.
        max_length: Most tokens of a text, prompt and special tokens included.
        prompt: Words before every text.

    Raises:
        DataError: if the base has no tokenizer, or the prompt leaves no room for a text.
    """

    def __init__(self, base: str, max_length: int, prompt: str = "") -> None:
        from transformers import AutoTokenizer

        self.max_length = max_length
        try:
            self.words: Any = AutoTokenizer.from_pretrained(base, padding_side="right")
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"The tokenizer of {Path(base).name or 'no base'} could not be read ({type(error).__name__}); expected "
                "the folder or hub id of a causal language model in data.base."
            ) from error
        special = self.words("")["input_ids"]
        begin = [token for token in special[:1] if token == self.words.bos_token_id]
        prompt = f"{prompt.strip()} " if prompt.strip() else ""
        self.prefix = begin + (self.words(prompt, add_special_tokens=False)["input_ids"] if prompt else [])
        if len(self.prefix) >= max_length:
            raise DataError(f"The prompt takes {len(self.prefix)} of {max_length} tokens; raise text.max_length.")
        pad = self.words.pad_token_id
        self.pad = int(self.words.eos_token_id if pad is None else pad)

    def rows(self, texts: list[str]) -> list[list[int]]:
        """The tokens of every text, prefix included, truncated."""
        parts = self.words(texts, add_special_tokens=False)["input_ids"]
        return [(self.prefix + part)[: self.max_length] or [self.pad] for part in parts]

    def padded(self, rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask`, int64 [B, T], padded on the right."""
        return {"input_ids": _filled(rows, self.pad), "attention_mask": _filled([[1] * len(row) for row in rows], 0)}

    def masked(self, pairs: Sequence[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
        """`padded` rows with `labels`, int64 [B, T], of what a `TokenMasking` gave for each.

        `places`, int64 [M], says where in the flattened batch the states lie that predict them: before each.
        """
        labels = _filled([labels for _, labels in pairs], MISSING)
        text, place = (labels[:, 1:] != MISSING).nonzero().unbind(dim=1)
        places = text * labels.shape[1] + place
        return self.padded([ids for ids, _ in pairs]) | {"labels": labels, "places": places}


def _filled(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    return pad_sequence([torch.tensor(row, dtype=torch.int64) for row in rows], batch_first=True, padding_value=value)


class TokenMasking:
    """Masks tokens for masked next-token prediction (LLM2Vec, BehnamGhader et al., COLM 2024).

    Args:
        tokenizer: The tokens.
        probability: Share of the tokens that are predicted.
        replacement: `bert`: 80 % of them become the mask token, 10 % a random one and 10 % stay (Devlin et al., NAACL
            2019), as LLM2Vec does for the Llama family; `all`: every one becomes the mask token.
        mask_token: Stands for a masked token where the base has none of its own; one token of its vocabulary.

    Raises:
        DataError: if the probability is not in (0, 1) or the mask token is not a single token.
    """

    def __init__(
        self,
        tokenizer: ReportTokenizer,
        probability: float = 0.2,
        replacement: Replacement = "bert",
        mask_token: str = "_",
    ) -> None:
        if not 0 < probability < 1:
            raise DataError(f"mask_probability={probability:g} was found; expected more than 0 and less than 1.")
        self.first = max(1, len(tokenizer.prefix))  # nothing stands before the first token to predict it from
        self.probability, self.replacement = probability, replacement
        self.size = len(tokenizer.words)
        own = tokenizer.words.mask_token_id
        ids = [own] if own is not None else tokenizer.words(mask_token, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise DataError(
                f"mask_token={mask_token!r} is {len(ids)} tokens of this base; expected a single one, for example '_'."
            )
        self.mask = int(ids[0])

    def __call__(self, tokens: list[int], seed: int) -> tuple[list[int], list[int]]:
        """The tokens with some masked, and the labels: the token itself where it is to be predicted, -100 elsewhere.

        At least one token is masked where there is one that can be. What is drawn depends on the seed and the number
        of tokens only.
        """
        ids, rng = np.array(tokens, dtype=np.int64), np.random.default_rng(seed)
        chosen = rng.random(len(ids)) < self.probability
        chosen[: self.first] = False
        free = np.arange(self.first, len(ids))
        if not chosen.any() and len(free):
            chosen[rng.choice(free)] = True
        labels = np.where(chosen, ids, MISSING)
        fate, random = rng.random(len(ids)), rng.integers(self.size, size=len(ids))
        if self.replacement == "all":
            fate[:] = 0.0
        ids = np.where(chosen & (fate < 0.8), self.mask, ids)
        ids = np.where(chosen & (fate >= 0.8) & (fate < 0.9), random, ids)
        return ids.tolist(), labels.tolist()
