"""The DataModule of alignment: both kidneys of every patient, with the embedding of what their reports say."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from datamodules.attributes import AttributeDataModule
from datamodules.augmentation import VolumeAugmentation
from datamodules.batch import RoiBatch
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.identity import REPORTS
from datamodules.errors import DataError
from datamodules.kidney_features import Rows, read_features
from datamodules.loading.joined_phases import VolumeReader
from datamodules.loading.samples import Plan, RoiDataset, Visits
from datamodules.loading.sampling import Draw
from datamodules.reports.embedding_cache import EmbeddingCache
from datamodules.reports.sides import KIDNEY, excerpt, side_reports
from datamodules.volumes.shards import VolumeSet

_AT_ONCE = 4096


class ReportedKidneyDataModule(AttributeDataModule):
    """Streams kidneys with what their report says, its number and the attributes that it states.

    Who is trained on, selected on and tested on is as in `AttributeDataModule`; a kidney without a text is left out
    too. Training takes one of several excerpts of a report at random, validation and test the report itself. Excerpts
    make an image answer to each finding for itself, and are as short as prompts are (sentences are drawn from reports
    in ConVIRT, Zhang et al., MLHC 2022). A subclass says in which form a batch holds the text.

    Args:
        root: Folder of the cohort.
        text_fingerprint: Fingerprint of the text encoder.
        text_dim: Dimensions of an embedding.
        excerpts: Excerpts of a report that training takes in its place; 0 for the report itself.
        features: Parquet table of the features of an image encoder that stays as it is, as `write_features` writes
            it; a batch then holds `features` float32 [B, F] in the place of images.
        reread: Whether a batch holds no images, but reads and augments them part by part when asked for, twice in
            gradient caching: for batches that do not fit into memory. Loader processes then load no images ahead.
        options: As `AttributeDataModule`.
    """

    def __init__(
        self,
        root: Path,
        text_fingerprint: str,
        text_dim: int,
        excerpts: int = 3,
        features: Path | None = None,
        reread: bool = False,
        **options: Any,
    ) -> None:
        if excerpts < 0:
            raise DataError(f"excerpts={excerpts} was found; expected 0 for the report alone, or more.")
        if features is not None and reread:
            raise DataError("data.features and data.reread=true were given; features are read in the place of images.")
        self.text_fingerprint, self.text_dim, self.excerpts, self.reread = text_fingerprint, text_dim, excerpts, reread
        self.features = None if features is None else Path(features)
        super().__init__(root, **options)

    def described(self) -> dict[str, Any]:
        """What the attributes and the texts are."""
        return {**super().described(), "text_fingerprint": self.text_fingerprint, "excerpts": self.excerpts}

    @abstractmethod
    def drawn(self, wordings: Sequence[Sequence[str]]) -> Callable[[int, int], Any]:
        """What gives the text of a sample.

        Args:
            wordings: Every kidney's report, and its excerpts behind it.

        Returns:
            A function of the row of a kidney and the seed of a sample.
        """

    def select(self, cohort: Cohort, volumes: VolumeSet) -> Plan:
        """Kidneys with a text that states something.

        Raises:
            DataError: if the cohort has no attributes or reports.
        """
        plan = super().select(cohort, volumes)
        reports = side_reports(cohort)
        kidneys = plan.kidneys.merge(reports[[*KIDNEY, "text", "report_id"]], on=KIDNEY, how="left")
        known = kidneys["text"].notna().to_numpy()
        kidneys = kidneys[known].reset_index(drop=True)
        if not (kidneys["part"] == "train").any():
            raise DataError(f"No kidney of the training part of cohort {cohort.info.name} has a report; look at roles.")
        wordings = [
            report_wordings(str(text), self.excerpts if part == "train" else 0)
            for text, part in zip(kidneys["text"], kidneys["part"], strict=True)
        ]
        fields = {name: values[known] for name, values in plan.fields.items()}
        fields["report_id"] = kidneys["report_id"].to_numpy(dtype=np.int64)
        drawn: dict[str, Callable[[int, int], Any]] = {"text": self.drawn(wordings)}
        if self.features is not None:
            drawn["features"] = Rows(read_features(self.features, kidneys))
        return replace(
            plan,
            kidneys=kidneys.drop(columns=["text", "report_id"]),
            fields=fields,
            drawn=drawn,
        )

    def stated(self) -> Mapping[str, Sequence[bytes]]:
        """The attributes and the reports, of which excerpts follow."""
        return {**super().stated(), REPORTS: [wordings[0].encode() for wordings in self.wordings]}

    def texts(self, part: str) -> list[str]:
        """The texts that samples of one part are drawn from: of train excerpts, of others the reports."""
        rows = np.flatnonzero((self.plan.kidneys["part"] == part).to_numpy())
        return [text for row in rows.tolist() for text in drawn_from(self.wordings[row])]

    @property
    def wordings(self) -> Sequence[Sequence[str]]:
        """Every kidney's report, and its excerpts behind it."""
        found: Sequence[Sequence[str]] = self.plan.drawn["text"].wordings  # type: ignore[attr-defined]
        return found

    def dataset(self, visits: Visits, fused: bool) -> RoiDataset:
        """Samples with their images, or without where those are read later or not at all."""
        if not self.reread and self.features is None:
            return super().dataset(visits, fused)
        if fused:
            raise DataError("Alignment takes one image a sample; set data.phases to random, single or joined.")
        return _WithoutImages(self.plan, visits, joined=self.phases == "joined")

    def on_before_batch_transfer(self, batch: RoiBatch, dataloader_idx: int) -> RoiBatch:
        """Keep the positions of images that are read later on the host, which reads them."""
        if self.reread:
            batch["positions"] = batch["sample"].tolist()
        return batch

    def on_after_batch_transfer(self, batch: RoiBatch, dataloader_idx: int) -> RoiBatch:
        """Augment the images, or put in their place what reads and augments them part by part."""
        if self.features is not None:
            return batch
        if not self.reread:
            return super().on_after_batch_transfer(batch, dataloader_idx)
        training = self.trainer is not None and bool(self.trainer.training)
        read = VolumeReader(self.plan.volumes, self.phases == "joined")
        positions = batch["positions"] if "positions" in batch else batch["sample"].tolist()
        images = RereadImages(read, positions, batch["seed"], self.augmentation, training)
        batch["image"] = images  # type: ignore[typeddict-item]
        return batch


class AlignmentDataModule(ReportedKidneyDataModule):
    """Streams kidneys with the embedding of their report, its number and the attributes that it states.

    Embeddings come from a cache, which the stage fills before.

    Args:
        root: Folder of the cohort.
        embeddings: Folder of the embedding caches.
        text_fingerprint: Fingerprint of the text encoder, which names the cache.
        text_dim: Dimensions of an embedding.
        options: As `ReportedKidneyDataModule`.
    """

    def __init__(self, root: Path, embeddings: Path, text_fingerprint: str, text_dim: int, **options: Any) -> None:
        self.cache = EmbeddingCache(Path(embeddings), text_fingerprint, text_dim)
        super().__init__(root, text_fingerprint, text_dim, **options)

    def drawn(self, wordings: Sequence[Sequence[str]]) -> Callable[[int, int], Any]:
        """Gives the embedding of a wording."""
        return _Embedded(self.cache, wordings)

    def loader(self, part: str, *, shuffled: bool = False) -> DataLoader[dict[str, Any]]:
        """The loader of one part on this rank.

        Raises:
            DataError: if the cache lacks a text of it, or nobody is in it.
        """
        missing = self.cache.missing(self.texts(part))
        if missing:
            raise DataError(
                f"{len(missing)} texts of the {part} part of cohort {self.plan.cohort.info.name} have no embedding by "
                f"text encoder {self.text_fingerprint}; `make pretrain STAGES=alignment` embeds those that it needs."
            )
        return super().loader(part, shuffled=shuffled)

    def text_mean(self) -> torch.Tensor:
        """Mean embedding of the texts that training draws from, float32 [text_dim]."""
        texts, total = self.texts("train"), np.zeros(self.text_dim)
        for start in range(0, len(texts), _AT_ONCE):
            total += self.cache.rows(texts[start : start + _AT_ONCE]).sum(axis=0, dtype=np.float64)
        return torch.from_numpy((total / len(texts)).astype(np.float32))


def report_wordings(text: str, excerpts: int) -> list[str]:
    """A report and excerpts of it.

    Args:
        text: The text of a kidney.
        excerpts: Number of excerpts; those that come out equal are kept once.
    """
    return list(dict.fromkeys([text, *(excerpt(text, seed) for seed in range(1, excerpts + 1))]))


def drawn_from(wordings: Sequence[str]) -> Sequence[str]:
    """What a sample's text is drawn from: the excerpts behind a report, or the report itself where there are none.

    Args:
        wordings: As `report_wordings` gives them.
    """
    return wordings[1:] or wordings


def drawn_wording(wordings: Sequence[str], seed: int) -> str:
    """One of `drawn_from`.

    Args:
        wordings: As `report_wordings` gives them.
        seed: Of the sample.
    """
    choice = drawn_from(wordings)
    return choice[seed % len(choice)]


@dataclass(frozen=True)
class _Embedded:
    """The embedding of what `drawn_wording` takes of a kidney's report."""

    cache: EmbeddingCache
    wordings: Sequence[Sequence[str]]

    def __call__(self, kidney: int, seed: int) -> torch.Tensor:
        return torch.from_numpy(self.cache.rows([drawn_wording(self.wordings[kidney], seed)])[0])


class _WithoutImages(RoiDataset):
    def _single(self, draw: Draw) -> dict[str, Any]:
        return {"phase": self.phase(draw)}


class RereadImages:
    """The images of a batch, read and augmented anew each time that a part of them is asked for.

    A part comes out the same every time, since a sample's augmentation follows its seed. Behaves like a tensor
    [B, C, D, H, W] that is sliced along its first axis.

    Args:
        read: Gives the stored image of a position.
        positions: Their positions [B].
        seeds: int64 [B], on the device that the images shall lie on.
        augmentation: How they are varied.
        training: Whether they are varied, or their centre is cut out.
    """

    def __init__(
        self,
        read: VolumeReader,
        positions: Sequence[int],
        seeds: torch.Tensor,
        augmentation: VolumeAugmentation,
        training: bool,
    ) -> None:
        self.read, self.positions, self.seeds = read, positions, seeds
        self.augmentation, self.training = augmentation, training

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, part: slice) -> torch.Tensor:
        stored = torch.stack([self.read(position) for position in self.positions[part]])
        if self.seeds.is_cuda:
            stored = stored.pin_memory()
        stored = stored.to(self.seeds.device, non_blocking=True)
        return self.augmentation(stored, self.seeds[part]) if self.training else self.augmentation.evaluate(stored)
