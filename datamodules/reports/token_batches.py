"""Texts as batches of tokens: masked for prediction, or in two views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.cohort.keyed_order import keyed_choice
from datamodules.loading.text_sampling import TextDraw
from datamodules.reports.sides import shuffle_sentences
from datamodules.reports.tokens import ReportTokenizer, TokenMasking


@dataclass(frozen=True)
class Texts:
    """The distinct texts of one part.

    Args:
        texts: The texts.
        attributes: int64 [texts, A], -100 where not stated; None where they are not asked for.
        sides: Side of every text's kidney, where attributes are asked for.
    """

    texts: list[str]
    attributes: np.ndarray | None = None
    sides: list[str] | None = None

    def drawn(self, most: int | None, seed: int) -> Texts:
        """At most so many of them, in their order; all where `most` is None. Further texts change few of those drawn.

        Args:
            most: Number of texts.
            seed: Says which.
        """
        if most is None or most >= len(self.texts):
            return self
        chosen = keyed_choice(self.texts, most, seed, "validation texts")
        rows = [row for row, text in enumerate(self.texts) if text in chosen]
        return Texts(
            [self.texts[row] for row in rows],
            None if self.attributes is None else self.attributes[rows],
            None if self.sides is None else [self.sides[row] for row in rows],
        )


class TextDataset(Dataset[dict[str, Any]]):
    """Loads one text per draw; holds no order and no randomness of its own."""

    def __init__(self, part: Texts) -> None:
        self.part = part

    def __len__(self) -> int:
        return len(self.part.texts)

    def __getitem__(self, draw: TextDraw) -> dict[str, Any]:
        facts = self.part.attributes
        sample = {"text": self.part.texts[draw.number], "sample": draw.number, "seed": draw.seed}
        return sample if facts is None else sample | {"attributes": facts[draw.number]}


@dataclass(frozen=True)
class TextCollate:
    """Texts as a batch of tokens, masked or twice.

    Args:
        tokenizer: The tokens.
        masking: Masks tokens; None gives two views of every text instead.
        shuffle: Share of the texts whose sentences are put in another order, of first views and of second ones.
    """

    tokenizer: ReportTokenizer
    masking: TokenMasking | None
    shuffle: tuple[float, float]

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """`sample` int64 [B], and tokens.

        For masked prediction: `input_ids`, `attention_mask` and `labels` [B, T]. Else `input_ids` and `attention_mask`
        [2 B, T], the first views before the second ones.
        """
        texts = [self._text(sample, self.shuffle[0], 0) for sample in samples]
        if self.masking is None:
            texts += [self._text(sample, self.shuffle[1], 1) for sample in samples]
        rows = self.tokenizer.rows(texts)
        batch = {"sample": torch.tensor([sample["sample"] for sample in samples])}
        if self.masking is None:
            return batch | self.tokenizer.padded(rows)
        masked = [self.masking(row, sample["seed"]) for row, sample in zip(rows, samples, strict=True)]
        return batch | self.tokenizer.masked(masked)

    @staticmethod
    def _text(sample: dict[str, Any], share: float, view: int) -> str:
        text, seed = str(sample["text"]), int(sample["seed"])
        rng = np.random.default_rng([seed, view])
        return shuffle_sentences(text, int(rng.integers(1 << 31))) if rng.random() < share else text
