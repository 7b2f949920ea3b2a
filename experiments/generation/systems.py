"""Who writes reports: every system by name, each a function from the tested kidneys to their reports."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.keyed_order import keyed_choice
from datamodules.errors import DataError
from datamodules.loading.joined_phases import VolumeReader
from datamodules.reports.sides import KIDNEY, side_reports
from datamodules.writing import ReportImageDataModule
from lightning_modules.networks.image.encoders import joins_phases
from lightning_modules.networks.joint.decoding import Decoding


@dataclass(frozen=True)
class ReportSystem:
    """A system that writes reports.

    Args:
        title: What it is called in tables.
        module: Module with `write(job) -> DataFrame`, one row per row of `job.kidneys` in that order: text and,
            where it tells, tokens, mean_logprob, truncated, token_list, logprobs.
        needs: What it needs besides the cohort, in words.
        remote: Whether images leave this process for a server, which needs a flag where that is another machine. Its
            module says so by `outgoing(job)`: what would be sent, and where to; empty where it stays here.
        comparator: Whether it needs something that only a user can give (weights, an address, a key), which its module
            tells by `absent(name, options)`. What is absent is left out where no system was named.
    """

    title: str
    module: str
    needs: str
    remote: bool = False
    comparator: bool = False


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
        arguments: Further arguments of single systems, as `system.argument`, or `system` alone for its folder.
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
class WritingJob:
    """The kidneys whose reports are to be written, and everything that a system may look at.

    Args:
        cohort: The cohort.
        module: Its kidneys; the reports of the training part may be read, those tested may not.
        kidneys: One row per tested kidney: patient_id, study_id, side, center, role and `row` of the plan's kidneys.
        options: What was asked for.
        system: Name of the system that writes at present.
        folder: Folder of its reports; None where nothing is kept.
        scope: Hash of everything that its reports depend on.
        fitted: What a system fitted, by name, for others of the same command.
    """

    cohort: Cohort
    module: ReportImageDataModule
    kidneys: pd.DataFrame
    options: Options
    system: str = ""
    folder: Path | None = None
    scope: str = ""
    fitted: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def training(self) -> pd.DataFrame:
        """Kidneys of the training part with their reports: the key, `row` and `text`."""
        plan = self.module.plan
        rows = np.flatnonzero((plan.kidneys["part"] == "train").to_numpy())
        table = plan.kidneys.iloc[rows][KIDNEY].assign(row=rows)
        return table.assign(text=plan.fields["report"][rows]).reset_index(drop=True)

    def rows(self, part: str) -> list[int]:
        """Rows of the plan's kidneys of a part that have a scan: train or val."""
        return [int(row) for row in self.module.visits(part).kidney]

    @property
    def tested_rows(self) -> list[int]:
        """Rows of the plan's kidneys of those tested, in their order."""
        return [int(row) for row in self.kidneys["row"]]

    def codes(self, rows: Sequence[int]) -> np.ndarray:
        """What the reports of kidneys state, int64 [rows, A], -100 where nothing."""
        found: np.ndarray = self.module.plan.fields["attributes"][list(rows)]
        return found

    def positions(self, row: int) -> list[int]:
        """Positions of the volumes of a tested kidney, one a phase and series."""
        return self._volumes[row]

    def volumes(self, rows: Sequence[int]) -> tuple[list[int], np.ndarray]:
        """Positions of the volumes of kidneys, and for each the place of its kidney in `rows`, int64."""
        taken = [self.positions(int(row)) for row in rows]
        owner = np.repeat(np.arange(len(rows)), [len(own) for own in taken])
        return [position for own in taken for position in own], owner

    @cached_property
    def _volumes(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for part in ("train", "val", "test"):
            visits = self.module.visits(part)
            found |= dict(zip(visits.kidney, visits.volumes, strict=True))
        return found

    def images(
        self, rows: Sequence[int], encoder: nn.Module | None = None
    ) -> tuple[torch.Tensor, np.ndarray, list[str | None]]:
        """The volumes of some kidneys, as in a test.

        Args:
            rows: Rows of the plan's kidneys.
            encoder: Network that reads them: its grid is cut out of their middle and HU are windowed. When left out
                they are int16 HU as stored.

        Returns:
            Images [V, 1, D, H, W], for each the place of its kidney in `rows` int64 [V], and its contrast phase. Of an
            encoder that joins phases [V, 4, D, H, W], one a visit, and None for the phase.
        """
        volumes = self.module.plan.volumes
        if encoder is not None and joins_phases(encoder):
            read = VolumeReader(volumes, joined=True)
            visits = [dict.fromkeys(read.first(position) for position in self.positions(row)) for row in rows]
            owner = [place for place, own in enumerate(visits) for _ in own]
            stored = torch.stack([read(position) for own in visits for position in own])
            return self.module.augmentation.evaluate(stored), np.array(owner, dtype=np.int64), [None] * len(stored)
        owner = [place for place, row in enumerate(rows) for _ in self.positions(row)]
        taken = [position for row in rows for position in self.positions(row)]
        stored = torch.stack([torch.from_numpy(volumes.read(position)) for position in taken])[:, None]
        phases = volumes.index["phase"].to_numpy()[taken].tolist()
        images = stored if encoder is None else self.module.augmentation.evaluate(stored)
        return images, np.array(owner, dtype=np.int64), phases


SYSTEMS: dict[str, ReportSystem] = {
    "planned": ReportSystem(
        "Facts read from regions, in sentences of training reports", "experiments.generation.planned", "stage image"
    ),
    "planned_shuffled": ReportSystem(
        "The same, images of other patients", "experiments.generation.planned_shuffled", "stage image"
    ),
    "writer": ReportSystem("Language model given image tokens", "experiments.generation.trained", "stage report"),
    "shuffled": ReportSystem(
        "Language model, images of other patients", "experiments.generation.shuffled", "stage report"
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
    "medgemma": ReportSystem(
        "MedGemma", "experiments.generation.medgemma", "a folder with its weights", comparator=True
    ),
    "gpt4o": ReportSystem(
        "GPT-4o", "experiments.generation.endpoint", "a key of OpenAI's interface", remote=True, comparator=True
    ),
    "ct_chat": ReportSystem(
        "CT-CHAT", "experiments.generation.endpoint", "a server of its own", remote=True, comparator=True
    ),
    "radfm": ReportSystem(
        "RadFM", "experiments.generation.endpoint", "a server of its own", remote=True, comparator=True
    ),
    "endpoint": ReportSystem(
        "Model behind an endpoint", "experiments.generation.endpoint", "a server", remote=True, comparator=True
    ),
}
"""Every system by name; a new one is an entry here and its module."""


def module_of(name: str) -> Any:
    """The module of a system."""
    return importlib.import_module(SYSTEMS[name].module)


def writer_of(name: str) -> Callable[[WritingJob], pd.DataFrame]:
    """The function that writes a system's reports."""
    function: Callable[[WritingJob], pd.DataFrame] = module_of(name).write
    return function


def arguments_of(options: Options, name: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a system, each of the type of its default.

    Args:
        options: Whose `arguments` may hold them as `system.argument`.
        name: The system.
        defaults: Value of each argument where nobody gave one.

    Raises:
        DataError: if one is unknown or of another type.
    """
    found = dict(defaults)
    for key, value in options.arguments.items():
        system, _, argument = key.partition(".")
        if system != name or not argument:
            continue
        if argument not in defaults:
            raise DataError(f"System {name} has no argument {argument}; it has {', '.join(defaults)}.")
        kind = type(defaults[argument])
        try:
            found[argument] = kind(value)
        except ValueError as error:
            raise DataError(
                f"Argument {key} is {value!r}; expected {'a whole number' if kind is int else 'a number'}."
            ) from error
    return found


def tested_kidneys(module: ReportImageDataModule, patients: int | None, seed: int) -> pd.DataFrame:
    """The tested kidneys that have a scan and a report.

    Args:
        module: The cohort's kidneys.
        patients: Largest number of patients, by keyed hash, in the same proportion from every centre; all when None.
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
        drawn: set[str] = set()
        for _, own in people.groupby("center")["patient_id"]:
            drawn |= keyed_choice(own, round(share * len(own)), seed, "generated reports")
        table = table[table["patient_id"].isin(drawn)]
    return table.sort_values(KIDNEY, ignore_index=True)


def references(cohort: Cohort, kidneys: pd.DataFrame) -> pd.DataFrame:
    """The real reports of kidneys: patient_id, study_id, side, text."""
    texts = side_reports(cohort, set(kidneys["patient_id"]))
    return kidneys[KIDNEY].merge(texts[[*KIDNEY, "text"]], on=KIDNEY, validate="one_to_one")
