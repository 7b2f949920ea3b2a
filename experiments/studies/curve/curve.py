"""`make curve`: a data-efficiency curve, every point of it run once, and the smallest fraction that is enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.label_fractions import FRACTIONS
from datamodules.csv_files import write_csv
from datamodules.errors import DataError
from datamodules.tasks import RoiDataModule, labelled
from experiments.encoders.clinical_features import check_columns
from experiments.encoders.exported import exported_encoder
from experiments.encoders.radiomics.cache import check_masks
from experiments.finetuning.point import Point, mode_suffix, without_labels
from experiments.registry import ENCODERS, MODES, PROFILES, TASKS, choose
from experiments.runs.configuration import Configuration, datamodule_of
from experiments.runs.console import say
from experiments.runs.folders import experiment_of, folds_of
from experiments.runs.locks import held
from experiments.runs.pretrained import pretrained_from
from experiments.runs.run_data import read_trained_on
from experiments.runs.started_ranks import check_launcher
from experiments.scores.plots.style import save
from experiments.scores.results_table import scored_caption
from experiments.studies.compare import finished_points
from experiments.studies.curve.curve_figure import curve_figure
from experiments.studies.curve.curve_table import (
    Curve,
    Skipped,
    collect,
    curve_table,
    format_curve,
    reached_table,
    zero_shot_rows,
)
from experiments.studies.curve.curve_tracking import Published, log_curve
from experiments.studies.curve.point_runs import run_points
from lightning_modules.core.distributed import is_main_rank

Value = TypeVar("Value")
SEEDS = (42, 2024, 2025, 2026, 2027)
_DEMO_SEEDS = 3


def curve(
    task: str = "malignancy",
    encoders: list[str] | None = None,
    fractions: list[float] | None = None,
    seeds: list[int] | None = None,
    mode: str = "finetune",
    profile: str = "demo",
    data: Path = Path("data/demo"),
    devices: str = "auto",
    runs: Path = Path("runs"),
    tag: str = "",
    pretrained: str = "s42",
    extra: list[str] | None = None,
    nodes: int = 1,
    jobs: int = 1,
    finished: bool = False,
) -> int:
    """Run all points of a data-efficiency curve: encoders x label fractions x seeds.

    A finished point is not run again, so that a curve that was interrupted goes on. The metric is averaged over seeds;
    its interval is a bootstrap over patients, the same for every encoder. Writes `curve.csv`, `curve.png` and
    `curve-reached.csv` beside the points. MLflow gets them in the points' parent run, with the sentence as its
    description, and one run an encoder with the metric by percentage of the labels, which its charts lay over each
    other; `make ui` prints the link. What is skipped stands in the table and in the figure.

    Args:
        task: Downstream task.
        encoders: Encoders and baselines; all of the registry by default. Those without weights here are skipped.
        fractions: Shares of the training labels; .05, .1, .2, .4, .8 and 1 by default, and 0 where an encoder starts
            from the prompts. Those that leave too few patients or events are skipped.
        seeds: Seeds of fraction, weights and order; 42, 2024, 2025 by default, and 2026, 2027 beyond the demo.
        mode: `finetune`, or `probe` for a linear model on frozen features.
        profile: Size of the runs: demo, study, small or paper.
        data: Folder of the cohort.
        devices: Devices, as Lightning's Trainer takes them.
        runs: Folder of all runs.
        tag: Suffix of the runs' names, for a configuration that you changed.
        pretrained: Pretraining whose encoders are used: `s42`, or with its TAG `s42-mytag`; its TAG is also that of
            the runs where they have none.
        extra: Further flags, for example `["--optimizer.lr=1e-4"]`.
        nodes: Machines, each with `devices`; more than one is started by torchrun or srun.
        jobs: Points that run side by side, each in a process with a GPU, or a share of the cores, of its own. The same
            command on several machines with one disk shares the points of a curve among them.
        finished: Run nothing: the curve of the points that are there, as `make finetune` made them one by one. By
            default of every encoder, fraction and seed among them.

    Returns:
        0, or 1 if a point failed; the others are run and collected all the same.
    """
    choose("TASK", task, dict(TASKS))
    choose("MODE", mode, dict(MODES))
    choose("PROFILE", profile, dict(PROFILES))
    cohort = Cohort.load(data)
    origin = pretrained_from(pretrained)
    there = _there(runs, cohort, task, tag or origin.tag, mode) if finished else None
    every = ENCODERS if there is None else {name for name in ENCODERS if any(point[0] == name for point in there)}
    names = [choose("ENCODERS", name, dict(ENCODERS)) for name in _once("ENCODERS", encoders or list(every))]
    known = FRACTIONS if there is None else {point[1] for point in there}
    if there is None and any(without_labels(task, name) for name in names):
        known = (0.0, *known)
    shares = sorted(_once("FRACTIONS", list(known) if fractions is None else fractions))
    default = SEEDS[:_DEMO_SEEDS] if profile in ("demo", "study") else SEEDS
    default = default if there is None else tuple(sorted({point[2] for point in there}))
    chosen = _once("SEEDS", list(default) if seeds is None else seeds)
    outside = [share for share in shares if not 0 <= share <= 1]
    if outside:
        raise DataError(f"FRACTIONS={outside[0]:g} was asked for; expected shares of the labels in (0, 1], or 0.")
    check_launcher(nodes, mode)
    first = Point(task, 1.0, "scratch", profile, data, chosen[0], devices, runs, tag or origin.tag, pretrained)
    first = replace(first, extra=tuple(extra or ()), mode=mode, nodes=nodes)
    _check_jobs(jobs, first)
    plan = _plan(first, cohort, names, shares, chosen)
    for skipped in plan.skipped:
        say(f"Skipped: {skipped.words}")
    if there is not None:
        plan = _of_those(plan, there)
    points = plan.points()
    if there is None:
        plan = replace(plan, failed=run_points(points, cohort, jobs, 1 if jobs > 1 else _ranks(first)))
    if len(plan.failed) == len(points):
        raise DataError(f"None of the {len(points)} points could be run. {next(iter(plan.failed.values()))}")
    if is_main_rank():
        with held(first.folder(cohort).parent / f".curve{mode_suffix(mode, first.tag)}.lock"):
            _publish(plan, cohort)
        for name, reason in plan.failed.items():
            say(f"Failed: {name}: {reason}")
        if plan.failed:
            say(f"{len(plan.failed)} of {len(points)} points failed; the same command runs them again.")
    return 1 if plan.failed else 0


def _there(runs: Path, cohort: Cohort, task: str, tag: str, mode: str) -> frozenset[tuple[str, float, int]]:
    """Finished points of a task, by encoder, fraction and seed.

    Raises:
        DataError: if there are none.
    """
    found = finished_points(runs, cohort, task, tag, mode)
    if not found:
        raise DataError(
            f"FINISHED=true was asked for, and {experiment_of(cohort, task)} has no finished point of MODE={mode}"
            f"{f' and TAG={tag}' if tag else ''}; run `make finetune TASK={task} FRACTION=...` first."
        )
    return frozenset((point.encoder, point.fraction, point.seed) for point in found)


def _of_those(plan: Curve, there: frozenset[tuple[str, float, int]]) -> Curve:
    """The plan without encoders and fractions of which no point is there."""
    only = {
        point for point in there if point[0] in plan.encoders and point[1] in plan.labels and point[2] in plan.seeds
    }
    if not only:
        raise DataError(f"None of the {len(there)} points that are finished is of the encoders, fractions and seeds.")
    names = [name for name in plan.encoders if any(name == point[0] for point in only)]
    labels = {share: count for share, count in plan.labels.items() if any(share == point[1] for point in only)}
    return replace(plan, encoders=names, labels=labels, only=frozenset(only))


def _check_jobs(jobs: int, first: Point) -> None:
    if jobs < 1:
        raise DataError(f"JOBS={jobs} was asked for; expected at least 1.")
    if jobs > 1 and (str(first.devices) not in ("auto", "1") or first.nodes > 1):
        raise DataError(
            f"JOBS={jobs} was asked for with DEVICES={first.devices} and NODES={first.nodes}; a point that runs beside "
            "others has one device. Take JOBS=1, or leave DEVICES= and NODES= out."
        )


def _ranks(point: Point) -> int:
    """Processes that train one point together."""
    alone = torch.cuda.device_count() <= 1 or str(point.devices) == "1"
    if alone and str(point.devices) in ("auto", "1") and point.nodes == 1:
        return 1
    options = {"trainer.devices": point.devices, "trainer.num_nodes": point.nodes, "data.init_args.root": point.data}
    return int(_of_the_task(point, options).build().trainer.world_size)


def _of_the_task(point: Point, options: Mapping[str, object]) -> Configuration:
    """The configuration of a point without an image encoder."""
    return Configuration.of(
        "finetune", profile=point.profile, encoder="size", task=point.task, values=options, flags=point.extra
    )


def _once(name: str, values: Sequence[Value]) -> list[Value]:
    if not values or len(set(values)) != len(values):
        shown = ", ".join(map(str, values)) or "nothing"
        raise DataError(f"{name}={shown} was asked for; expected at least one value, and each once.")
    return list(values)


def _plan(first: Point, cohort: Cohort, names: list[str], shares: list[float], seeds: list[int]) -> Curve:
    """What can be run, and what is skipped with its reason; read before any training time is spent."""
    modules = [_data(first, fold) for fold in folds_of(cohort)]
    skipped, kept = [], []
    for name in names:
        try:
            for fold, module in zip(folds_of(cohort), modules, strict=True):
                origin = pretrained_from(first.pretrained)
                weights = exported_encoder(first.runs, cohort, name, origin.seed, fold, origin.tag)
                if weights is not None:
                    read_trained_on(weights).refuse_seen(module.identity, f"ENCODER={name}")
            check_columns(modules[0].label, ENCODERS[name].columns, ENCODERS[name].radiomics)
            if ENCODERS[name].radiomics:
                check_masks(modules[0].plan.volumes)
            kept.append(name)
        except DataError as error:
            skipped.append(Skipped(name, None, str(error)))
    labels: dict[float, float] = {}
    for share in shares:
        if share == 0 and not any(without_labels(first.task, name) for name in kept):
            skipped.append(Skipped(None, share, "nothing that is asked for starts from prompts of classes."))
            continue
        try:
            counts = [_labels(module, share, seed) for module in modules for seed in seeds]
            labels[share] = sum(counts) / len(counts)
        except DataError as error:
            skipped.append(Skipped(None, share, str(error)))
    if not kept or not labels:
        what = "encoders" if not kept else "fractions"
        reason = next(entry.reason for entry in skipped if (entry.encoder is None) == bool(kept))
        raise DataError(f"None of the {what} asked for can be run. {reason}")
    return Curve(first, kept, labels, seeds, skipped)


def _data(point: Point, fold: int | None) -> RoiDataModule:
    """The task's patients with all their labels."""
    options = {"seed_everything": point.seed, "data.init_args.root": point.data, "data.init_args.fold": fold}
    module: RoiDataModule = datamodule_of(_of_the_task(point, options))
    return module


def _labels(module: RoiDataModule, fraction: float, seed: int) -> int:
    """Training patients of a fraction.

    Raises:
        DataError: if they are too few, naming the smallest fraction that works.
    """
    train = module.plan.patients[module.plan.patients["part"] == "train"]
    return len(labelled(train, module.label, fraction, seed))


def _publish(plan: Curve, cohort: Cohort) -> None:
    """Table, figure, sentences, and the curve in MLflow."""
    first = plan.first
    cells = collect(plan, cohort)
    metric = cells[0].pooled.metric
    zero = zero_shot_rows(plan, cohort, metric)
    table, reached = curve_table(plan, cells, zero), reached_table(plan, cells)
    folder = first.folder(cohort).parent
    suffix = mode_suffix(first.mode, first.tag)
    paths = [folder / f"curve{suffix}.csv", folder / f"curve{suffix}-reached.csv", folder / f"curve{suffix}.png"]
    for path, frame in zip(paths, (table, reached), strict=False):
        write_csv(path, frame)
    note = " ".join([scored_caption(cohort.info, metric), *(f"Skipped: {skipped.short}" for skipped in plan.skipped)])
    note += f" {len(plan.failed)} points failed and are left out." if plan.failed else ""
    save(curve_figure(table, metric, plan.labels, f"{TASKS[first.task].title}, {plan.how}", note), paths[2])
    log_curve(plan, cohort, Published(table, metric, reached["sentence"].tolist(), note, paths))
    say(format_curve(table, metric))
    for sentence in reached["sentence"]:
        say(sentence)
    if reached.empty:
        say("No smallest fraction: that needs a pretrained encoder, a baseline, and 100 % of the labels among them.")
    say(f"{note}\nTable: {paths[0].as_posix()}\nFigure: {paths[2].as_posix()}")
