"""Alignment with a text encoder that is trained: batches hold the tokens of reports, not embeddings of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from datamodules.alignment import ReportedKidneyDataModule, drawn_wording
from datamodules.batch import RoiBatch
from datamodules.reports.tokens import ReportTokenizer


class TokenAlignmentDataModule(ReportedKidneyDataModule):
    """Streams kidneys with the tokens of their report, its number and the attributes that it states.

    `text` of a batch holds `input_ids` and `attention_mask`, int64 [B, T]: one of several wordings of the report in
    training, the report itself otherwise.

    Args:
        root: Folder of the cohort.
        text_fingerprint: Fingerprint of the text encoder that training starts from.
        text_dim: Dimensions of an embedding.
        base: Folder or hub id of the base whose tokens they are, linked from `text`.
        base_name: What is recorded of it, linked from `text`.
        max_length: Most tokens of a text, linked from `text`.
        prompt: Words before every text, linked from `text`.
        options: As `ReportedKidneyDataModule`.
    """

    def __init__(
        self,
        root: Path,
        text_fingerprint: str,
        text_dim: int,
        base: str = "",
        base_name: str = "",
        max_length: int = 224,
        prompt: str = "",
        **options: Any,
    ) -> None:
        self.base, self.base_name, self.max_length, self.prompt = base, base_name, max_length, prompt
        super().__init__(root, text_fingerprint, text_dim, **options)

    def described(self) -> dict[str, Any]:
        """What the attributes, the texts and their tokens are."""
        return {**super().described(), "base": self.base_name, "max_length": self.max_length, "prompt": self.prompt}

    @cached_property
    def tokenizer(self) -> ReportTokenizer:
        """The tokens of the base."""
        return ReportTokenizer(self.base, self.max_length, self.prompt)

    def drawn(self, wordings: Sequence[Sequence[str]]) -> Any:
        """Gives the wording itself; the batch is tokenised as one."""
        return _Worded(wordings)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> RoiBatch:
        """Put tokens in the place of texts."""
        batch["text"] = self.tokenizer.padded(self.tokenizer.rows(batch["text"]))
        prepared: RoiBatch = super().on_before_batch_transfer(batch, dataloader_idx)
        return prepared


@dataclass(frozen=True)
class _Worded:
    """What `drawn_wording` takes of a kidney's report."""

    wordings: Sequence[Sequence[str]]

    def __call__(self, kidney: int, seed: int) -> str:
        return drawn_wording(self.wordings[kidney], seed)
