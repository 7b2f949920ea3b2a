"""The DataModule over the kidney ROIs of a cohort, shared by every stage and task that sees images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import lightning
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.augmentation import AugmentationConfig, VolumeAugmentation
from datamodules.batch import RoiBatch
from datamodules.cohort import Cohort
from datamodules.contract import PreprocessingContract
from datamodules.errors import DataError
from datamodules.labels import Label, targets
from datamodules.sampling import Draw, EvenBatchSampler, SequentialDraws, VisitSampler
from datamodules.schema import PHASES
from datamodules.splits import label_fraction, label_order, split_of_fold
from datamodules.volumes import VolumeSet

Role = Literal["internal", "pretrain"]


@dataclass(frozen=True)
class Visits:
    """The kidneys of one split: parallel lists, one entry per kidney and study."""

    patient: list[int]
    side: list[str]
    volumes: list[list[int]]


class RoiDataset(Dataset[dict[str, Any]]):
    """Loads one volume per draw; holds no order and no randomness of its own.

    Args:
        volumes: The volume set.
        visits: The kidneys of a split.
        patients: The patient table that `Visits.patient` indexes, with patient_id, center and target.
    """

    def __init__(self, volumes: VolumeSet, visits: Visits, patients: pd.DataFrame) -> None:
        self.volumes, self.visits = volumes, visits
        self.patient_ids = patients["patient_id"].tolist()
        self.centers = patients["center"].tolist()
        self.targets = patients["target"].tolist()
        self.phases = [PHASES.index(phase) for phase in volumes.index["phase"]]

    def __len__(self) -> int:
        return len(self.visits.patient)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        patient = self.visits.patient[draw.visit]
        return {
            "image": torch.from_numpy(self.volumes.read(draw.position))[None],
            "phase": self.phases[draw.position],
            "patient": patient,
            "sample": draw.position,
            "seed": draw.seed,
            "patient_id": self.patient_ids[patient],
            "side": self.visits.side[draw.visit],
            "center": self.centers[patient],
            "target": self.targets[patient],
        }


def collate(samples: Sequence[dict[str, Any]]) -> RoiBatch:
    """Stack samples into a batch; numbers become int64 tensors, texts stay lists."""
    batch: dict[str, Any] = {}
    for name in samples[0]:
        values = [sample[name] for sample in samples]
        if name == "image":
            batch[name] = torch.stack(values)
        else:
            batch[name] = values if isinstance(values[0], str) else torch.tensor(values, dtype=torch.int64)
    return RoiBatch(**batch)  # type: ignore[typeddict-item]


@dataclass(frozen=True)
class Plan:
    """Who is trained on, selected on and tested on in one run.

    Args:
        cohort: The cohort.
        volumes: Its volume set.
        patients: Eligible patients with `target` and `part` (train, unused, val, test).
    """

    cohort: Cohort
    volumes: VolumeSet
    patients: pd.DataFrame


class RoiDataModule(lightning.LightningDataModule):
    """Streams the kidney of the index lesion of every patient, for one task, role and label fraction.

    Training draws one contrast phase at random per visit and epoch; validation and test see every phase, and metrics
    average a patient's phases. Images travel to the device as integers and are augmented there, in one batch.

    Args:
        root: Folder of the cohort.
        label: What is predicted and for whom.
        contract: The preprocessing contract that the network expects; the cohort must hold a volume set that follows
            it.
        fraction: Share of the training patients whose labels are used, in (0, 1].
        seed: Seed of the label fraction, the order and the augmentation.
        fold: Fold to test, for a cohort evaluated in folds.
        role: `internal` trains and selects on internal centres and tests on internal and external ones; `pretrain`
            trains and selects on pretraining centres and tests nobody.
        batch_size: Samples per rank and step.
        num_workers: Loader processes per rank.
        augmentation: Ranges of the augmentation and the size of the crop.
        center_weights: Share of an epoch by centre; every visit once when left out.
        shards_url: Object store that holds the volume set's folder, for example `s3://bucket/cohort/volumes/<set>`.
        cache_dir: Local folder for shards fetched from there.
        cache_size: Bound of that folder, for example `50GB`.
    """

    def __init__(
        self,
        root: Path,
        label: Label,
        contract: PreprocessingContract,
        augmentation: AugmentationConfig,
        fraction: float = 1.0,
        seed: int = 42,
        fold: int | None = None,
        role: Role = "internal",
        batch_size: int = 8,
        num_workers: int = 0,
        center_weights: dict[str, float] | None = None,
        shards_url: str | None = None,
        cache_dir: Path | None = None,
        cache_size: str | None = None,
    ) -> None:
        super().__init__()
        self.root, self.label, self.wanted = Path(root), label, contract
        self.fraction, self.seed, self.fold, self.role = fraction, seed, fold, role
        self.batch_size, self.num_workers, self.center_weights = batch_size, num_workers, center_weights
        self.store: dict[str, Any] = {"url": shards_url, "cache": cache_dir, "cache_size": cache_size}
        self.augmentation = VolumeAugmentation(contract, augmentation)
        # No path here: hyper-parameters go to MLflow and into checkpoints.
        self.save_hyperparameters(
            {
                "task": label.name,
                "fraction": fraction,
                "seed": seed,
                "fold": fold,
                "role": role,
                "batch_size": batch_size,
                "augmentation": asdict(augmentation),
                "center_weights": center_weights,
            }
        )

    @cached_property
    def plan(self) -> Plan:
        """The checked cohort and the part of every patient; read before any training time is spent.

        Raises:
            DataError: if the cohort, its volumes, the fold or the fraction is refused.
        """
        cohort = Cohort.load(self.root)
        volumes = VolumeSet.find(self.root, self.wanted.region, self.wanted.hash, **self.store)
        known = targets(cohort, self.label)
        parts = self._parts(cohort, known).reset_index(drop=True)
        train = parts["part"] == "train"
        parts.loc[train & ~parts["patient_id"].isin(self._labelled(parts[train])), "part"] = "unused"
        plan = Plan(cohort, volumes, parts)
        without = self._without_volume(plan)
        if without:
            raise DataError(
                f"{len(without)} patients of cohort {cohort.info.name} have no volume of their index kidney in "
                f"{volumes.folder.name}, the first is {without[0]}; run `make data-check` and import them again."
            )
        return plan

    @property
    def contract(self) -> dict[str, Any]:
        """The preprocessing contract as plain data, for the module's checkpoint."""
        return self.wanted.to_dict()

    @property
    def class_counts(self) -> list[int]:
        """Number of training patients of each class."""
        train = self.plan.patients[self.plan.patients["part"] == "train"]
        return [int((train["target"] == number).sum()) for number in range(len(self.label.classes))]

    def _parts(self, cohort: Cohort, known: pd.DataFrame) -> pd.DataFrame:
        known = known.copy()
        if cohort.info.evaluation == "folds":
            if self.fold is None:
                raise DataError(f"Cohort {cohort.info.name} is evaluated in folds; name one with data.fold.")
            known["part"] = split_of_fold(known, self.fold, self.label.column, cohort.info.seed)
            return known
        if self.fold is not None:
            raise DataError(f"Cohort {cohort.info.name} has roles of centres and no folds; leave data.fold out.")
        roles = ("pretrain",) if self.role == "pretrain" else ("internal", "external")
        known = known[known["role"].isin(roles)].copy()
        known["part"] = known["split"]
        return known

    def _labelled(self, train: pd.DataFrame) -> list[str]:
        """The training patients within the label fraction."""
        outcomes = train["target"].astype(str).tolist()
        patient_ids = train["patient_id"].tolist()
        order = label_order(patient_ids, outcomes, train["center"].tolist(), self.seed, self.label.name)
        return label_fraction(order, dict(zip(patient_ids, outcomes, strict=True)), self.fraction)

    def _without_volume(self, plan: Plan) -> list[str]:
        keys = plan.cohort["kidneys"]
        index = keys[keys["is_index"]].merge(plan.volumes.index, on=["patient_id", "study_id", "side"])
        return sorted(set(plan.patients["patient_id"]) - set(index["patient_id"]))

    def visits(self, part: str) -> Visits:
        """The index kidneys of the patients of one part, in the order of the patient table."""
        plan = self.plan
        rows = plan.patients.index[plan.patients["part"] == part]
        number = {str(plan.patients.loc[row, "patient_id"]): int(row) for row in rows}
        kidneys = plan.cohort["kidneys"]
        kidneys = kidneys[kidneys["is_index"] & kidneys["patient_id"].isin(list(number))]
        found = kidneys[["patient_id", "study_id", "side"]].merge(
            plan.volumes.index, on=["patient_id", "study_id", "side"]
        )
        visits = Visits([], [], [])
        for (patient_id, _, side), group in found.groupby(["patient_id", "study_id", "side"], sort=True):
            visits.patient.append(number[str(patient_id)])
            visits.side.append(str(side))
            visits.volumes.append([int(position) for position in group["position"].sort_values()])
        return visits

    def _loader(self, part: str, *, shuffled: bool = False) -> DataLoader[dict[str, Any]]:
        visits = self.visits(part)
        if not visits.patient:
            raise DataError(
                f"Nobody is in the {part} part of task {self.label.name} (role {self.role}); "
                "check roles and splits with `make data-check`."
            )
        patients = self.plan.patients
        if shuffled:
            centers = [str(patients.loc[row, "center"]) for row in visits.patient]
            sampler: Sampler[Draw] = VisitSampler(visits.volumes, centers, self.seed, self.center_weights)
        else:
            sampler = SequentialDraws(visits.volumes)
        trainer = self.trainer
        rank, ranks = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        return DataLoader(
            RoiDataset(self.plan.volumes, visits, patients),
            batch_sampler=EvenBatchSampler(sampler, self.batch_size, rank, ranks),
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            # A generator of its own: a loader draws a base seed when it is opened, and opening it earlier after a
            # resumption would shift the global generator, and with it dropout.
            generator=torch.Generator().manual_seed(self.seed),
        )

    def setup(self, stage: str) -> None:
        """Read and check everything before the first step."""
        _ = self.plan

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Training patients within the label fraction, one phase at random per visit and epoch."""
        return self._loader("train", shuffled=True)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Validation patients, every phase."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Test patients of all centres, every phase."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The same patients as the test."""
        return self._loader("test")

    def on_after_batch_transfer(self, batch: RoiBatch, dataloader_idx: int) -> RoiBatch:
        """Augment a training batch, or cut the centre of any other, on the device."""
        training = self.trainer is not None and self.trainer.training
        image = batch["image"]
        batch["image"] = self.augmentation(image, batch["seed"]) if training else self.augmentation.evaluate(image)
        return batch
