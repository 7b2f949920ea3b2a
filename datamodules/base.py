"""What every DataModule over kidney ROIs does alike: parts, loading, order, and the way to the device."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Sampler

from datamodules.augmentation import AugmentationConfig, VolumeAugmentation
from datamodules.batch import RoiBatch
from datamodules.bound_data import BoundDataModule
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.identity import DataIdentity, plan_identity
from datamodules.cohort.splits import split_of_fold
from datamodules.errors import DataError
from datamodules.files import write_parquet
from datamodules.loading.loaders import ResumableLoader, WatchedLoader
from datamodules.loading.samples import Plan, RoiDataset, Visits, collate
from datamodules.loading.sampling import Draw, EvenBatchSampler, SequentialDraws, VisitSampler
from datamodules.loading.shard_order import ShardSampler
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.shards import VolumeSet

PhaseRule = Literal["random", "single", "all", "joined"]
SINGLE_PHASE_ORDER = ("arterial", "venous", "delayed", "non_contrast")
"""The phase that a single-phase task takes: the first of these that a study has (arterial, then venous)."""


_STUCK_SECONDS = 600
"""A loader worker that gives no batch for so long is taken for stuck, and the run ends with that."""


class VolumeDataModule(BoundDataModule):
    """Streams kidney ROIs to every rank; a subclass says which kidneys, and what is known of them.

    Training draws one contrast phase at random per visit and epoch; validation and test see every phase, and metrics
    average them. Images travel to the device as integers and are augmented there, in one batch.

    Args:
        root: Folder of the cohort.
        contract: The preprocessing contract that the network expects; the cohort must hold a volume set that follows
            it.
        augmentation: Ranges of the augmentation and the size of the crop.
        seed: Seed of the order and the augmentation.
        fold: Fold to test, for a cohort evaluated in folds.
        batch_size: Samples of a step over all devices, however many there are.
        device_batch: Most samples that a device computes at once; what a step holds beyond that is computed in parts,
            whose gradients are averaged. Batch normalisation takes its statistics from a part. All at once when left
            out.
        shuffle_buffer: For shards on an object store: samples that are shuffled at once, of shards that are read one
            after the other, so that each is fetched once an epoch on each machine; 2000 mixes a thousand patients. All
            samples of an epoch when left out, which needs a cache of the whole set.
        num_workers: Loader processes per rank.
        phases: `random`, as above; `single` takes one phase of every visit, arterial where there is one, else venous,
            delayed, non-contrast; `all` gives every phase of a visit in one sample, with a mask of those there are;
            `joined` gives them as the channels of one image, for an encoder that reads phases together.
        center_weights: Share of an epoch by centre; every visit alike when left out.
        samples_per_epoch: Samples of a training epoch over all ranks; the number of visits when left out. Runs on
            different fractions of the labels have equal steps when it is set.
        shards_url: Object store that holds the volume set's folder, for example `s3://bucket/cohort/volumes/<set>`.
        cache_dir: Local folder for shards fetched from there; needed with it.
        cache_size: Bound of that folder, for example `50GB`.
    """

    def __init__(
        self,
        root: Path,
        contract: PreprocessingContract,
        augmentation: AugmentationConfig,
        seed: int = 42,
        fold: int | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
        phases: PhaseRule = "random",
        center_weights: dict[str, float] | None = None,
        samples_per_epoch: int | None = None,
        shards_url: str | None = None,
        cache_dir: Path | None = None,
        cache_size: str | None = None,
        device_batch: int | None = None,
        shuffle_buffer: int | None = None,
    ) -> None:
        super().__init__()
        self.root, self.wanted = Path(root), contract
        self.seed, self.fold, self.phases = seed, fold, phases
        self.batch_size, self.device_batch, self.num_workers = batch_size, device_batch, num_workers
        self.fixed_shapes = phases != "all"  # of those a visit has, each is an image
        self.center_weights, self.samples_per_epoch = center_weights, samples_per_epoch
        self.shuffle_buffer = shuffle_buffer
        self.store: dict[str, Any] = {"url": shards_url, "cache": cache_dir, "cache_size": cache_size}
        self.store["in_order"] = shuffle_buffer is not None
        # Drawn in any order out of a cache that does not hold the set, a patient's other volumes would come in vain.
        self.store["by_volume"] = shuffle_buffer is None and self.store["cache_size"] is not None
        self.augmentation = VolumeAugmentation(contract, augmentation)
        # No path here: hyper-parameters go to MLflow and into checkpoints.
        self.save_hyperparameters(
            {
                "seed": seed,
                "fold": fold,
                "batch_size": batch_size,
                "phases": phases,
                "samples_per_epoch": samples_per_epoch,
                "augmentation": asdict(augmentation),
                "center_weights": center_weights,
                **self.described(),
            }
        )

    def __str__(self) -> str:
        """Its name alone: Lightning's text opens every loader, and parsers ask for it each time that they link."""
        return f"{type(self).__name__}({self.described()})"

    @abstractmethod
    def described(self) -> dict[str, Any]:
        """The subclass's own hyper-parameters, as plain data without paths."""

    @abstractmethod
    def select(self, cohort: Cohort, volumes: VolumeSet) -> Plan:
        """Who is in which part and what is known of them.

        Raises:
            DataError: if nobody is left, or something that the run needs is not in the cohort.
        """

    @cached_property
    def plan(self) -> Plan:
        """The checked cohort and the part of every patient; read before any training time is spent.

        Raises:
            DataError: if the cohort, its volumes or the selection is refused.
        """
        cohort = Cohort.load(self.root)
        volumes = VolumeSet.find(self.root, self.wanted.region, self.wanted, **self.store)
        return self.select(cohort, volumes)

    @cached_property
    def identity(self) -> DataIdentity:
        """What data it uses: patients with their parts, their volumes, and what is stated of them."""
        plan = self.plan
        keys = ["patient_id", "study_id", "side"]
        volumes = plan.volumes.index
        if self.phases == "single":
            order = volumes["phase"].map({phase: place for place, phase in enumerate(SINGLE_PHASE_ORDER)})
            volumes = volumes.assign(order=order).sort_values(["order", "position"]).drop_duplicates(keys)
        return plan_identity(plan.patients, plan.kidneys, volumes, plan.volumes.contract.stored.hash, self.stated())

    @abstractmethod
    def stated(self) -> Mapping[str, Sequence[bytes]]:
        """What a run learns or is told of every kidney of the plan besides its volumes, by its name in a refusal."""

    @property
    def contract(self) -> dict[str, Any]:
        """The preprocessing contract as plain data, for the module's checkpoint."""
        return self.wanted.to_dict()

    def fold_parts(self, cohort: Cohort, patients: pd.DataFrame) -> pd.Series | None:
        """The part of each patient when the fold is tested; None for a cohort whose centres have roles.

        Raises:
            DataError: if the cohort has folds and none was named, or the other way round.
        """
        if cohort.info.evaluation == "folds":
            if self.fold is None:
                raise DataError(f"Cohort {cohort.info.name} is evaluated in folds; name one with data.fold.")
            return split_of_fold(patients, self.fold)
        if self.fold is not None:
            raise DataError(f"Cohort {cohort.info.name} has roles of centres and no folds; leave data.fold out.")
        return None

    def visits(self, part: str) -> Visits:
        """The kidneys of one part with the positions of their volumes, in the order of `Plan.kidneys`."""
        plan, keys = self.plan, ["patient_id", "study_id", "side"]
        rows = plan.kidneys.loc[plan.kidneys["part"] == part, keys]
        volumes = plan.volumes.index[[*keys, "phase", "position"]]
        found = rows.assign(kidney=rows.index).merge(volumes, on=keys).sort_values(["kidney", "position"])
        if self.phases == "single":
            order = found["phase"].map({phase: place for place, phase in enumerate(SINGLE_PHASE_ORDER)})
            found = found.assign(order=order).sort_values(["kidney", "order", "position"]).drop_duplicates("kidney")
        kidney, positions = found["kidney"].to_numpy(dtype=np.int64), found["position"].to_numpy(dtype=np.int64)
        first = np.flatnonzero(np.diff(kidney, prepend=-1))
        return Visits(kidney[first].tolist(), [part.tolist() for part in np.split(positions, first[1:])])

    def loader(self, part: str, *, shuffled: bool = False) -> DataLoader[dict[str, Any]]:
        """The loader of one part on this rank.

        Args:
            part: train, val or test.
            shuffled: Whether an epoch is drawn at random, as for training, or every volume once, in order.

        Raises:
            DataError: if nobody is in that part.
        """
        visits, fused = self.visits(part), self.phases == "all"
        whole = self.phases in ("all", "joined")
        if not visits.kidney:
            raise DataError(
                f"Nobody is in the {part} part of {self.described()}; check roles and splits with `make data-check`."
            )
        rows = self.plan.kidneys["row"].to_numpy(dtype=np.int64)[visits.kidney]
        centers = self.plan.patients["center"].iloc[rows].astype(str).tolist()
        drawn = [positions[:1] for positions in visits.volumes] if whole else visits.volumes
        if shuffled:
            visit_sampler = VisitSampler(drawn, centers, self.seed, self.center_weights, self.samples_per_epoch)
            sampler: Sampler[Draw] = visit_sampler
            if self.shuffle_buffer is not None:
                sampler = ShardSampler(visit_sampler, self.plan.volumes.shard_numbers, self.shuffle_buffer)
        else:
            sampler = SequentialDraws(drawn)
        trainer = self.trainer
        rank, ranks = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        nodes = getattr(trainer, "num_nodes", 1)
        parts = self.share(ranks).parts
        kind = ResumableLoader if shuffled else WatchedLoader
        return kind(
            self.dataset(visits, fused),
            batch_sampler=EvenBatchSampler(sampler, self.batch_size, rank, ranks, parts, nodes),
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            timeout=_STUCK_SECONDS if self.num_workers else 0,
            # A generator of its own: a loader draws a base seed when it is opened, and opening it earlier after a
            # resumption would shift the global generator, and with it dropout.
            generator=torch.Generator().manual_seed(self.seed),
        )

    def dataset(self, visits: Visits, fused: bool) -> RoiDataset:
        """What loads the samples of some visits; a subclass may load less."""
        return RoiDataset(self.plan, visits, fused, self.phases == "joined")

    @staticmethod
    def write_table(path: Path, frame: pd.DataFrame) -> None:
        """Write what a run found of these data, atomically: callbacks know the patients, not the disk.

        Args:
            path: Parquet file.
            frame: The table.
        """
        write_parquet(path, frame)

    def setup(self, stage: str) -> None:
        """Read and check everything before the first step."""
        _ = self.plan

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The kidneys to train on, augmented."""
        return self.loader("train", shuffled=True)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The kidneys to select on."""
        return self.loader("val")

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The kidneys to test, of all centres."""
        return self.loader("test")

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The same as the test."""
        return self.loader("test")

    def on_after_batch_transfer(self, batch: RoiBatch, dataloader_idx: int) -> RoiBatch:
        """Augment a training batch, or cut the centre of any other, on the device."""
        training = self.trainer is not None and self.trainer.training
        image = batch["image"]
        # All phases of a sample share its seed, so that they stay aligned.
        phases = image.shape[1] if image.dim() == 6 else 1
        flat = image.flatten(0, 1) if image.dim() == 6 else image
        seeds = batch["seed"].repeat_interleave(phases)
        there = batch.get("there")
        changed = self.augmentation(flat, seeds, there) if training else self.augmentation.evaluate(flat, there)
        batch["image"] = changed.unflatten(0, (-1, phases)) if image.dim() == 6 else changed
        return batch
