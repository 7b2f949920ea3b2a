"""Which points of a task are finished, and their metric with its replicates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from callbacks.predictions import PREDICTIONS
from datamodules.batch import MISSING
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.labels import Label, targets
from datamodules.cohort.splits import split_of_fold
from datamodules.errors import DataError
from datamodules.files import read_json_mapping
from datamodules.tasks import labelled
from experiments.finetuning.point import Point, mode_suffix
from experiments.registry import ENCODERS, MODES, task_label
from experiments.runs.folders import experiment_of, folds_of
from experiments.runs.launch import DONE, RUN_COMMAND
from experiments.scores.outcomes import Metric, metric_of, outcomes_of
from experiments.scores.results_table import groups
from experiments.studies.compare import REPORTED, FinishedPoint, finished_points, pooled_seeds
from experiments.studies.curve.curve_table import Cell, Curve

_INDEX = ("aligned", "stage1", "scratch")
"""The encoder that is looked at by subgroup and risk group: the first of these that was run, whatever the results."""


@dataclass(frozen=True)
class PointSeries:
    """Finished points of one task that differ in encoder, fraction and seed alone, all of the same tested patients.

    Args:
        cohort: The cohort.
        label: What is predicted and for whom.
        runs: Folder of all runs.
        mode: How the points were trained.
        tag: TAG of their runs.
        points: The points.
        remarks: What was left out, one sentence each.
    """

    cohort: Cohort
    label: Label
    runs: Path
    mode: str
    tag: str
    points: tuple[FinishedPoint, ...]
    remarks: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.label.name

    @property
    def key(self) -> str:
        """Name for anchors and files."""
        return f"{self.task}{mode_suffix(self.mode, self.tag)}"

    @property
    def title(self) -> str:
        """How the points were made."""
        how = {"finetune": "Fine-tuned", "probe": "Linear probe"}.get(self.mode, self.mode)
        return f"{how}{f', runs tagged {self.tag}' if self.tag else ''}"

    @property
    def metric(self) -> Metric:
        """The metric of the task."""
        return metric_of(self.points[0].predictions)

    @property
    def encoders(self) -> list[str]:
        """Encoders with points, in the order of the registry."""
        return [name for name in ENCODERS if any(point.encoder == name for point in self.points)]

    @property
    def fractions(self) -> list[float]:
        """Shares of the labels at which the encoders have a seed in common, rising."""
        return [share for share in sorted({point.fraction for point in self.points}) if self.seeds(share)]

    @property
    def fraction(self) -> float:
        """The largest of them, which the tables and figures are of."""
        return self.fractions[-1]

    def at(self, fraction: float) -> dict[str, dict[int, pd.DataFrame]]:
        """Predictions by encoder and seed at a share of the labels."""
        found: dict[str, dict[int, pd.DataFrame]] = {}
        for name in self.encoders:
            own = {p.seed: p.predictions for p in self.points if (p.encoder, p.fraction) == (name, fraction)}
            if own:
                found[name] = own
        return found

    def seeds(self, fraction: float) -> list[int]:
        """Seeds that all encoders at a share of the labels have."""
        return sorted(set.intersection(*(set(own) for own in self.at(fraction).values())))

    @property
    def index(self) -> str:
        """The encoder whose patients are looked at one by one."""
        shown = self.at(self.fraction)
        return next(name for name in (*_INDEX, *shown) if name in shown)

    def first_seed(self) -> dict[str, pd.DataFrame]:
        """Predictions of the first common seed at the largest share, by encoder."""
        seed = self.seeds(self.fraction)[0]
        return {name: own[seed] for name, own in self.at(self.fraction).items()}

    def curve(self) -> Curve:
        """The points as a curve, for its table and figure."""
        first = Point(self.task, data=self.cohort.root, runs=self.runs, tag=self.tag, mode=self.mode)
        labels = {share: self._labels(share) for share in self.fractions}
        seeds = sorted({seed for share in self.fractions for seed in self.seeds(share)})
        return Curve(first, self.encoders, labels, seeds, [])

    def _labels(self, fraction: float) -> float:
        """Training patients of a share, the mean over seeds and folds."""
        known = targets(self.cohort, self.label)
        counts = []
        for fold in folds_of(self.cohort):
            if fold is None:
                train = known[(known["role"] == "internal") & (known["split"] == "train")]
            else:
                train = known[split_of_fold(known, fold) == "train"]
            train = train[train["target"] != MISSING]
            counts += [len(labelled(train, self.label, fraction, seed)) for seed in self.seeds(fraction)]
        return sum(counts) / len(counts)


def series_of(runs: Path, cohort: Cohort, task: str) -> list[PointSeries]:
    """The series of a task with finished points, the one with the largest share and the most encoders first.

    A point whose patients are not those of the cohort, or not those of the other points, is left out and named.
    """
    folder = runs / experiment_of(cohort, task)
    kinds = set()
    for done in sorted(folder.glob(f"*/{DONE}")):
        if (done.parent / RUN_COMMAND).is_file() and (done.parent / PREDICTIONS).is_file():
            arguments = read_json_mapping(done.parent / RUN_COMMAND, "arguments")["arguments"]
            kinds.add((arguments.get("mode", "finetune"), arguments["tag"]))
    found = []
    for mode, tag in sorted(kinds, key=lambda kind: (kind[1], list(MODES).index(kind[0]) if kind[0] in MODES else 99)):
        points, remarks = _same_patients(cohort, finished_points(runs, cohort, task, tag, mode))
        if points:
            series = PointSeries(cohort, task_label(task), runs, mode, tag, tuple(points), tuple(remarks))
            if series.fractions:
                found.append(series)
    return sorted(found, key=lambda one: (one.tag != "", -one.fraction, -len(one.at(one.fraction))))


def unfinished(runs: Path, cohort: Cohort, task: str) -> int:
    """Points of a task that were started and are not finished."""
    folder = runs / experiment_of(cohort, task)
    return sum(not (path.parent / DONE).is_file() for path in folder.glob(f"*/{RUN_COMMAND}"))


def _same_patients(cohort: Cohort, points: list[FinishedPoint]) -> tuple[list[FinishedPoint], list[str]]:
    known = set(cohort["patients"]["patient_id"])
    kept: list[FinishedPoint] = []
    remarks = []
    for point in sorted(points, key=lambda one: (list(ENCODERS).index(one.encoder), -one.fraction, one.seed)):
        tested = _tested(point)
        name = f"{point.encoder}, {point.fraction:.0%} of the labels, seed {point.seed}"
        if not tested <= known:
            remarks.append(f"Left out: {name}, which was tested on patients who are not in this cohort.")
        elif kept and tested != _tested(kept[0]):
            remarks.append(f"Left out: {name}, which was tested on other patients than the other points.")
        else:
            kept.append(point)
    return kept, remarks


def _tested(point: FinishedPoint) -> set[str]:
    return set(point.predictions.loc[point.predictions["part"] == "test", "patient_id"])


def cells_of(series: PointSeries, replicates: int = 2000) -> list[Cell]:
    """The metric of every encoder, averaged over the common seeds, with replicates paired over patients.

    At the largest share every group is scored, single centres on the endpoint that was trained on, pooled groups on all
    that are known; at smaller shares the pooled groups on the endpoint that was trained on.
    """
    cells = []
    for group, endpoint, own, patients in _outcomes(series):
        for fraction in series.fractions:
            if fraction < series.fraction and not (own and group[1] in REPORTED):
                continue
            seeds = series.seeds(fraction)
            for name, tables in series.at(fraction).items():
                pooled = pooled_seeds([tables[seed] for seed in seeds], patients, endpoint, replicates)
                cells.append(Cell(name, fraction, *group, endpoint, own, pooled))
    return cells


def _outcomes(series: PointSeries) -> Iterator[tuple[tuple[str, str], str, bool, list[str]]]:
    first = next(iter(series.first_seed().values()))
    for group in groups(first):
        for number, outcome in enumerate(outcomes_of(group.rows)):
            own = outcome.endpoint in ("", series.label.endpoint)
            if own or (group.kind in REPORTED and number):
                yield (group.name, group.kind), outcome.endpoint, own, outcome.rows["patient_id"].tolist()


def check_tasks(found: dict[str, list[PointSeries]], cohort: Cohort) -> None:
    """Refuse a report without any result.

    Raises:
        DataError: if no task has a finished point.
    """
    if not any(found.values()):
        raise DataError(
            f"No finished point of cohort {cohort.info.name} was found for {', '.join(found)}; run "
            "`make finetune TASK=...` or `make curve TASK=...` first, or name another folder with RUNS=."
        )


def finite(value: float) -> bool:
    """Whether a metric is defined."""
    return bool(np.isfinite(value))
