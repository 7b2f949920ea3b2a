"""Batches for contrast by attributes: every report in its own and in other words, and with one fact changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from datamodules.batch import MISSING
from datamodules.cohort.keyed_order import keyed_choice
from datamodules.errors import DataError
from datamodules.reports.reader.matching import PRESENCE
from datamodules.reports.rewriting.flips import other_side
from datamodules.reports.rewriting.rewrite import SIZE_CLASS, Rewriter, Rewritten
from datamodules.reports.schema import AttributeSchema
from datamodules.reports.sides import shuffle_sentences
from datamodules.reports.tokens import ReportTokenizer


@dataclass(frozen=True)
class Rewriting:
    """How reports are written anew.

    Args:
        negatives: Most texts with a changed fact of every report.
        sentences: Most sentences of a report that are taken for a training text, drawn at random: short texts are
            cheap, and what tells facts from words is learned from many of them. All when left out.
        validation_sentences: The same for a validation text.
        normal_share: Kidneys without a lesion, as a share of those with one, that are kept: they repeat themselves.
        phrasings: Whether the other words come from the banks of phrasings as well as from other reports; see
            `datamodules.reports.rewriting.phrasings`. Validation texts then take theirs from the bank held back.
    """

    negatives: int = 3
    sentences: int | None = 2
    validation_sentences: int | None = 6
    normal_share: float = 0.1
    phrasings: bool = True

    def __post_init__(self) -> None:
        for name in ("sentences", "validation_sentences"):
            if (getattr(self, name) or 1) < 1:
                raise DataError(f"rewriting: {name}={getattr(self, name)} was found; expected at least 1, or nothing.")


@dataclass(frozen=True)
class RewritingCollate:
    """Kidneys as a batch of rewritten texts.

    Args:
        tokenizer: The tokens.
        rewriter: Writes the kidneys of this part anew.
        schema: Attributes and classes.
        negatives: Most texts with a changed fact of every report.
        sentences: Most sentences of a report that are taken; all when left out.
    """

    tokenizer: ReportTokenizer
    rewriter: Rewriter
    schema: AttributeSchema
    negatives: int
    sentences: int | None

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Tokens of B kidneys and N changed texts.

        `input_ids` and `attention_mask` [2 B + N, T]: the own words, then the other words, then the texts with a
        changed fact; `lengths`, a list, the tokens of each; `negative_of` int64 [N], the kidney of each of the last;
        `attributes` int64 [B, 1 + A], what the texts state, the side first; `sample` int64 [B].
        """
        made = [self._made(sample) for sample in samples]
        texts = [entry.own for entry, _ in made] + [entry.other for entry, _ in made]
        texts += [text for entry, _ in made for _, text in entry.changed]
        owners = [row for row, (entry, _) in enumerate(made) for _ in entry.changed]
        rows = self.tokenizer.rows(texts)
        return {
            "sample": torch.tensor([sample["sample"] for sample in samples]),
            "lengths": list(map(len, rows)),
            "attributes": torch.from_numpy(np.stack([codes for _, codes in made])),
            "negative_of": torch.tensor(owners, dtype=torch.int64),
            **self.tokenizer.padded(rows),
        }

    def _made(self, sample: dict[str, Any]) -> tuple[Rewritten, np.ndarray]:
        seed, text, stated = int(sample["seed"]), str(sample["text"]), sample["attributes"]
        made = self.rewriter(int(sample["sample"]), seed, self.negatives, self.sentences)
        if made is None:
            # The rules read nothing here, so the text is only put in another order.
            return Rewritten(text, shuffle_sentences(text, seed % (1 << 31)), (), frozenset(), sized=False), stated
        return made, self._codes(made, stated)

    def _codes(self, made: Rewritten, stated: np.ndarray) -> np.ndarray:
        """What the rewritten texts still state, in the layout of `stated`."""
        codes = np.full_like(stated, MISSING)
        if other_side(made.own) != made.own:
            codes[0] = stated[0]
        places = {name: place for place, name in enumerate(self.schema.names, start=1)}
        for fact in made.facts:
            codes[places[fact.attribute]] = self.schema.classes[fact.attribute].index(fact.value)
        if made.sized:
            codes[places[SIZE_CLASS]] = stated[places[SIZE_CLASS]]
            codes[places[PRESENCE]] = stated[places[PRESENCE]]
        return codes


def kept_kidneys(texts: Sequence[str], lesion: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which kidneys are trained on: all with a lesion, and few of the others, by the keyed hash of their text.

    Args:
        texts: Distinct texts of the kidneys.
        lesion: bool [kidneys].
        share: Others, as a share of those with a lesion; at least one is kept where there is one.
        seed: Seed of the draw.

    Returns:
        int [kept], sorted.
    """
    others = np.flatnonzero(~lesion)
    count = min(len(others), max(1, round(share * lesion.sum())) if lesion.any() else len(others))
    drawn = keyed_choice([texts[place] for place in others.tolist()], count, seed, "kidneys without a lesion")
    return np.array([place for place, text in enumerate(texts) if lesion[place] or text in drawn], dtype=np.int64)
