"""Finished points of a study, written as the suite writes them, with drawn predictions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from callbacks.predictions import PREDICTIONS
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.labels import targets
from datamodules.cohort.splits import split_of_fold
from datamodules.files import write_json, write_parquet
from experiments.finetuning.point import Point
from experiments.registry import task_label
from experiments.runs.launch import DONE, RUN_COMMAND
from experiments.scores.results_table import results_table


def vary(root: Path) -> Path:
    """Give the tiny cohort ages, sexes, sizes and grades that differ."""
    path = root / "patients.parquet"
    patients = pd.read_parquet(path)
    rng = np.random.default_rng(0)
    count = len(patients)
    patients["age_years"] = pd.array(rng.uniform(30, 85, count).round(1), dtype="Float64")
    patients["sex"] = pd.array(np.where(rng.random(count) < 0.5, "female", "male"), dtype="string")
    patients["tumor_size_mm"] = pd.array(rng.uniform(10, 90, count).round(1), dtype="Float64")
    patients.loc[::9, "tumor_size_mm"] = pd.NA
    patients["isup_grade"] = pd.array(rng.integers(1, 5, count), dtype="Int64")
    patients.to_parquet(path)
    return root


def finished(point: Point, cohort: Cohort, strength: float) -> pd.DataFrame:
    """Write a finished point whose scores follow the truth as strongly as is said."""
    label = task_label(point.task)
    known = targets(cohort, label)
    rng = np.random.default_rng([point.seed, round(100 * strength), round(100 * point.fraction)])
    parts = []
    if cohort.info.evaluation == "folds":
        for fold in sorted(known["fold"].unique()):
            split = split_of_fold(known, int(fold))
            parts.append(known.assign(part=split.to_numpy(), test_fold=int(fold)))
    else:
        parts.append(known[known["role"] != "pretrain"].assign(part=lambda rows: rows["split"]))
    rows = pd.concat(parts, ignore_index=True)
    rows = rows[rows["part"].isin(["val", "test"])].reset_index(drop=True)
    frame = rows[["patient_id", "center", "role", "part"]].astype("string")
    signal = strength * (rows["target"] == 1) + rng.normal(0, 1, len(rows))
    if label.kind == "survival":
        for name in ("rfs", "dss", "os"):
            frame[f"{name}_months"] = rows[f"{name}_months"].astype("Float64").where(rows[f"{name}_known"])
            frame[f"{name}_event"] = rows[f"{name}_event"].astype("boolean").where(rows[f"{name}_known"])
        frame["risk"] = signal
        if point.encoder == "stage1":  # the others predict risks alone
            for months in (0.0, 6.5, 20.25, 48.0):
                frame[f"survival_{months:.2f}"] = np.exp(-0.01 * months * np.exp(signal))
    else:
        frame["target"] = rows["target"].to_numpy(dtype=int)
        probability = 1 / (1 + np.exp(-signal))
        frame[f"score_{label.class_names[0]}"], frame[f"score_{label.class_names[1]}"] = 1 - probability, probability
    if "test_fold" in rows:
        frame["fold"] = rows["test_fold"].to_numpy(dtype=int)
    folder = point.folder(cohort)
    write_parquet(folder / PREDICTIONS, frame)
    write_json(folder / RUN_COMMAND, point.command())
    results_table(frame).to_csv(folder / "results.csv", index=False)
    write_json(folder / DONE, {"results": "results.csv"})
    return frame


def make_study(root: Path, runs: Path) -> Cohort:
    """A study of two tasks: a curve of malignancy, one share of labels of recurrence-free survival."""
    cohort = Cohort.load(root)
    first = Point("malignancy", data=root, runs=runs, mode="probe")
    for encoder, strength in (("scratch", 0.2), ("stage1", 1.5), ("size", 0.8)):
        for fraction in (0.8, 1.0):
            for seed in (42, 2024):
                finished(replace(first, encoder=encoder, fraction=fraction, seed=seed), cohort, strength * fraction)
    for encoder, strength in (("stage1", 1.0), ("size", 0.5)):
        for task in ("rfs", "aggressiveness"):
            finished(replace(first, task=task, encoder=encoder), cohort, strength)
    started = replace(first, encoder="clinical").folder(cohort)
    write_json(started / RUN_COMMAND, replace(first, encoder="clinical").command())
    card = runs / f"renal/{cohort.info.name}/pretrain/image-s42/encoder/README.md"
    card.parent.mkdir(parents=True)
    card.write_text(
        "---\ntags: [x]\n---\n# Card of stage 1\n\n![p](http://x.org/a.png) [l](http://x.org) <img src='http://x.org/b'>\n\n"
        "## Result\nReads **much**.\n"
    )
    return cohort
