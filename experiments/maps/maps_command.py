"""`make maps`: test the maps of a model on a cohort's kidneys, and keep which of them may be shown."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.cohort.cohort import Cohort
from datamodules.csv_files import write_csv
from datamodules.errors import DataError
from experiments.attribution.tested_maps import as_content, erased_table, failures, map_table, write_tested
from experiments.encoders.exported import best_encoder
from experiments.finetuning.point import Point
from experiments.maps.asked_models import AskedModel, attributes_of, fine_tuned, probed, prompted
from experiments.maps.map_figure import maps_figure
from experiments.maps.map_trials import LEAST_MM, MapTrials, run_trials
from experiments.registry import ENCODERS, MODES, PROFILES, TASKS, choose
from experiments.runs.console import counted, say
from experiments.runs.folders import experiment_of, folds_of
from experiments.runs.tracking import log_results, make_logger
from experiments.scores.results_table import caption, with_interval


def maps(
    task: str = "malignancy",
    data: Path = Path("data/demo"),
    encoder: str = "best",
    mode: str = "probe",
    profile: str = "demo",
    pretrained: str = "s42",
    seed: int = 42,
    fraction: float = 1.0,
    tag: str = "",
    attributes: list[str] | None = None,
    prompts: bool = False,
    methods: list[str] | None = None,
    kidneys: int = 60,
    random_kidneys: int = 20,
    fold: int | None = None,
    runs: Path = Path("runs"),
    extra: list[str] | None = None,
) -> int:
    """Map what a model's answers rest on, and test whether the maps are true: `maps.csv`, a picture, `maps.json`.

    Maps are made by gradients, by occlusion and, of an encoder of regions, by its tokens. Each is tested on kidneys of
    external centres (without any, on the internal test; in folds on that of the fold) with a lesion of at least 2 cm,
    about which the answer is right: deletion and insertion, the pointing game against the mask, the same map of random
    weights, all beside a blob in the centre; and what erasing the lesion costs against erasing as much parenchyma. A
    map that fails is not shown by any command; the result lies beside the model.

    Args:
        task: Downstream task.
        data: Folder of the cohort.
        encoder: Image encoder; `best` for the first of aligned, stage1, scratch that exists.
        mode: `probe` for the linear model on frozen features, `finetune` for a fine-tuned network.
        profile: Size of the run.
        pretrained: Pretraining of the encoder: `s42`, or with its TAG `s42-mytag`.
        seed: Seed of the run.
        fraction: Share of the training labels of the run.
        tag: TAG of the run.
        attributes: Attributes that stage 1's heads are asked besides, on the same kidneys.
        prompts: Whether the prompts of the aligned model are asked, in the place of a run of the task.
        methods: Kinds of maps: gradient, occlusion, regions; all that the encoder allows by default.
        kidneys: Most kidneys that are tested.
        random_kidneys: Of how many the map of random weights is made as well.
        fold: Fold of a cohort with folds; the first by default.
        runs: Folder of all runs.
        extra: Further flags, those of the run where it had some.
    """
    choose("TASK", task, dict(TASKS))
    choose("MODE", mode, dict(MODES))
    choose("PROFILE", profile, dict(PROFILES))
    if kidneys < 1 or random_kidneys < 1:
        raise DataError(f"KIDNEYS={kidneys} and RANDOM_KIDNEYS={random_kidneys} were asked for; expected at least 1.")
    cohort = Cohort.load(data)
    name = best_encoder(runs, cohort, pretrained) if encoder == "best" else choose("ENCODER", encoder, dict(ENCODERS))
    own_fold = folds_of(cohort)[0] if fold is None else fold
    flags = tuple(extra or ())
    point = Point(
        task, fraction, name, profile, data, seed, runs=runs, tag=tag, pretrained=pretrained, mode=mode, extra=flags
    )
    asked = _asked(point, cohort, own_fold, attributes or [], prompts)
    with counted("kidneys") as show:
        trials = run_trials(asked, kidneys, random_kidneys, seed, methods or (), show)
    table, lost = map_table(trials.maps), erased_table(trials.erased)
    for model in asked:
        _keep(model, table, lost, trials, cohort)
    run = "zeroshot" if prompts else f"{mode}-f{fraction:g}"
    title = f"{name}-maps-{run}-s{seed}{f'-{tag}' if tag else ''}{'' if own_fold is None else f'-fold{own_fold}'}"
    folder = runs / experiment_of(cohort, task) / title
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "maps.csv", table)
    write_csv(folder / "erased.csv", lost)
    note = (
        f"{caption(cohort.info)} {trials.chosen} of {trials.eligible} kidneys with a lesion of {LEAST_MM:g} mm and "
        f"more; answers that are right: {', '.join(f'{key} {count}' for key, count in trials.right.items())}."
    )
    maps_figure(folder / "maps.png", trials.examples, f"What answers rest on: {TASKS[task].title}, {name}", note)
    tags = {**point.tags(cohort), "mode": f"maps-{run}"}
    logger = make_logger(runs, folder, experiment_of(cohort, task), title, tags)
    log_results(logger, _metrics(table, lost), note, [folder / "maps.csv", folder / "erased.csv"])
    say(f"{words(table, lost)}\n{_cost(trials)}\n{note}\nFolder: {folder.as_posix()}")
    return 0


def _asked(point: Point, cohort: Cohort, fold: int | None, attributes: list[str], prompts: bool) -> list[AskedModel]:
    if prompts:
        if attributes:
            raise DataError("ATTRIBUTES were named with PROMPTS=true; ask for one after the other.")
        return [prompted(point, cohort, fold)]
    if point.mode != "probe":
        if attributes:
            raise DataError("ATTRIBUTES were named with MODE=finetune, whose encoder has no attribute heads any more.")
        return [fine_tuned(point, cohort, fold)]
    probe = probed(point, cohort, fold)
    return [probe, attributes_of(point, cohort, fold, attributes, probe)] if attributes else [probe]


def _keep(model: AskedModel, table: pd.DataFrame, lost: pd.DataFrame, trials: MapTrials, cohort: Cohort) -> None:
    names = {question.name for question in model.questions}
    own = table[table["question"].isin(names)]
    if own.empty:
        return
    seconds = trials.maps[trials.maps["question"].isin(names)].groupby("method")["seconds"].mean().to_dict()
    about = {
        "weights": model.weights,
        "cohort": cohort.info.name,
        "phantom": cohort.info.phantom,
        "least_mm": LEAST_MM,
        "memory_mb": round(trials.memory_mb),
    }
    content = as_content(own, lost[lost["question"].isin(names)], {str(k): float(v) for k, v in seconds.items()}, about)
    write_tested(model.folder, content)


def _metrics(table: pd.DataFrame, lost: pd.DataFrame) -> dict[str, float]:
    found = {f"{row['statistic']}/{row['method']} {row['question']}": row["value"] for row in table.to_dict("records")}
    found |= {f"erased {row['statistic']}/{row['question']}": row["value"] for row in lost.to_dict("records")}
    return {re.sub(r"[^\w/]+", "_", name): float(value) for name, value in found.items() if np.isfinite(value)}


def words(table: pd.DataFrame, lost: pd.DataFrame) -> str:
    """The tables as a command line shows them."""
    lines = []
    for (question, method), own in table.groupby(["question", "method"], sort=False):
        failed = failures(own)
        lines.append(f"{question!s}, {method!s}: {'shown' if not failed else 'not shown: ' + '; '.join(failed)}")
        for row in own.to_dict("records"):
            value = with_interval(row["value"], row["low"], row["high"], row["interval"])
            lines.append(f"  {row['statistic']:44s} {value}, {row['n']} patients")
    for question, own in lost.groupby("question", sort=False):
        lines.append(f"{question!s}: how much surer the answer is with than without")
        for row in own.to_dict("records"):
            value = with_interval(row["value"], row["low"], row["high"], row["interval"])
            lines.append(f"  {row['statistic']:44s} {value}, {row['n']} patients")
    return "\n".join(lines)


def _cost(trials: MapTrials) -> str:
    mean = trials.maps.groupby("method", sort=False)["seconds"].mean()
    each = ", ".join(f"{method} {seconds:.1f} s" for method, seconds in mean.items())
    return f"A map of one answer: {each}; most memory {trials.memory_mb:.0f} MB."
