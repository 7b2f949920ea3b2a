"""Who writes reports: every system by name, each a function from the tested kidneys to their reports."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from datamodules.cohort import Cohort
from datamodules.errors import DataError
from datamodules.report_data import ReportImageDataModule
from datamodules.side_reports import KIDNEY, side_reports
from lightning_modules.networks.decoding import Decoding

IMAGES_AT_ONCE = 32


@dataclass(frozen=True)
class ReportSystem:
    """A system that writes reports.

    Args:
        title: What it is called in tables.
        module: Module with `write(study) -> DataFrame`, one row per row of `study.kidneys` in that order: text and,
            where it tells, tokens, mean_logprob, truncated, token_list, logprobs.
        needs: What it needs besides the cohort, in words.
        remote: Whether images leave this machine, which needs a flag that says so.
    """

    title: str
    module: str
    needs: str
    remote: bool = False


@dataclass(frozen=True)
class Options:
    """What `make generate` was asked for.

    Args:
        runs: Folder of all runs.
        seed: Seed of the pretraining, and of whatever is drawn.
        fold: Fold that is tested, for a cohort with folds.
        tag: TAG of the report stage.
        base: Language model below a writer: folder, hub id or smollm2; the recorded one when left out.
        decoding: How reports are written.
        batch: Reports written at a time.
        arguments: Further arguments of single systems by name.
    """

    runs: Path
    seed: int = 42
    fold: int | None = None
    tag: str = ""
    base: str | None = None
    decoding: Decoding = field(default_factory=Decoding)
    batch: int = 32
    arguments: dict[str, str] = field(default_factory=dict)


@dataclass
class Study:
    """The kidneys whose reports are to be written, and everything that a system may look at.

    Args:
        cohort: The cohort.
        module: Its kidneys; the reports of the training part may be read, those tested may not.
        kidneys: One row per tested kidney: patient_id, study_id, side, center, role and `row` of the plan's kidneys.
        options: What was asked for.
    """

    cohort: Cohort
    module: ReportImageDataModule
    kidneys: pd.DataFrame
    options: Options

    @cached_property
    def training(self) -> pd.DataFrame:
        """Kidneys of the training part with their reports: the key, `row` and `text`."""
        plan = self.module.plan
        rows = np.flatnonzero((plan.kidneys["part"] == "train").to_numpy())
        table = plan.kidneys.iloc[rows][KIDNEY].assign(row=rows)
        return table.assign(text=plan.fields["report"][rows]).reset_index(drop=True)

    def positions(self, row: int) -> list[int]:
        """Positions of the volumes of a tested kidney, one a phase and series."""
        return self._volumes[row]

    @cached_property
    def _volumes(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for part in ("train", "val", "test"):
            visits = self.module.visits(part)
            found |= dict(zip(visits.kidney, visits.volumes, strict=True))
        return found

    def images(self, rows: Sequence[int], crop: bool = True) -> tuple[torch.Tensor, np.ndarray, list[str]]:
        """The volumes of some kidneys, as in a test.

        Args:
            rows: Rows of the plan's kidneys.
            crop: Whether the network's grid is cut out of their middle and HU are windowed; else int16 HU as stored.

        Returns:
            Images [V, 1, D, H, W], for each the place of its kidney in `rows` int64 [V], and its contrast phase.
        """
        volumes = self.module.plan.volumes
        owner = [place for place, row in enumerate(rows) for _ in self.positions(row)]
        taken = [position for row in rows for position in self.positions(row)]
        stored = torch.stack([torch.from_numpy(volumes.read(position)) for position in taken])[:, None]
        phases = volumes.index["phase"].to_numpy()[taken].tolist()
        images = self.module.augmentation.evaluate(stored) if crop else stored
        return images, np.array(owner, dtype=np.int64), phases


SYSTEMS: dict[str, ReportSystem] = {
    "writer": ReportSystem("Report writer", "experiments.generation.trained", "stage report"),
    "shuffled": ReportSystem(
        "Report writer, images of other patients", "experiments.generation.shuffled", "stage report"
    ),
    "template": ReportSystem("Template of predicted attributes", "experiments.generation.templated", "stage image"),
    "nearest": ReportSystem(
        "Report of the nearest scan", "experiments.generation.nearest", "stages text and alignment"
    ),
    "normal": ReportSystem("The normal report for everyone", "experiments.generation.normal", "nothing"),
    "base": ReportSystem(
        "Language model, not adapted", "experiments.generation.untrained", "the base of the text stage"
    ),
    "grounded": ReportSystem(
        "Language model given predicted attributes and near reports",
        "experiments.generation.grounded",
        "stages image, text and alignment",
    ),
}
"""Every system by name; a new one is an entry here and its module."""


def writer_of(name: str) -> Callable[[Study], pd.DataFrame]:
    """The function that writes a system's reports."""
    function: Callable[[Study], pd.DataFrame] = importlib.import_module(SYSTEMS[name].module).write
    return function


def tested_kidneys(module: ReportImageDataModule, patients: int | None, seed: int) -> pd.DataFrame:
    """The tested kidneys that have a scan and a report.

    Args:
        module: The cohort's kidneys.
        patients: Largest number of patients, drawn by `seed` in the same proportion from every centre; all when None.
        seed: Seed of the draw.

    Returns:
        patient_id, study_id, side, center, role, row; sorted by the key.

    Raises:
        DataError: if there is none, or `patients` is less than 1.
    """
    plan = module.plan
    seen = set(module.visits("test").kidney)
    rows = np.array([row for row in np.flatnonzero((plan.kidneys["part"] == "test").to_numpy()) if row in seen])
    if not len(rows):
        raise DataError(f"No tested kidney of cohort {plan.cohort.info.name} has a scan and a report.")
    table = plan.kidneys.iloc[rows][[*KIDNEY, "row"]].reset_index(drop=True)
    owners = plan.patients.iloc[table.pop("row").to_numpy(dtype=int)]
    table = table.assign(center=owners["center"].to_numpy(), role=owners["role"].to_numpy(), row=rows)
    if patients is not None:
        if patients < 1:
            raise DataError(f"patients={patients} was found; expected at least 1, or nothing for all.")
        people = table[["patient_id", "center"]].drop_duplicates()
        share = min(1.0, patients / len(people))
        drawn = people.groupby("center").sample(frac=share, random_state=seed)["patient_id"]
        table = table[table["patient_id"].isin(set(drawn))]
    return table.sort_values(KIDNEY, ignore_index=True)


def references(cohort: Cohort, kidneys: pd.DataFrame) -> pd.DataFrame:
    """The real reports of kidneys: patient_id, study_id, side, text."""
    texts = side_reports(cohort, set(kidneys["patient_id"]))
    return kidneys[KIDNEY].merge(texts[[*KIDNEY, "text"]], on=KIDNEY, validate="one_to_one")
