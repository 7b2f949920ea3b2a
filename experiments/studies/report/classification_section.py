"""The figures and tables of a classification: ROC, operating points, calibration, decision curves."""

from __future__ import annotations

import numpy as np
import pandas as pd

from experiments.registry import ENCODERS, TASKS
from experiments.scores.outcomes import fold_of, outcomes_of, score_columns
from experiments.scores.plots.classification import calibration_plot, roc_plot
from experiments.scores.results_table import Group
from experiments.statistics.auroc import auroc_of
from experiments.statistics.calibration import calibration_summary
from experiments.statistics.decision import decision_curve
from experiments.statistics.estimate import estimates_table, undefined
from experiments.statistics.operating_point import OperatingPoint, operating_point, youden_threshold
from experiments.studies.encoder_lines import encoder_line
from experiments.studies.report.decisions import Decisions, decision_blocks
from experiments.studies.report.finished_points import PointSeries
from experiments.studies.report.journal_words import capital, interval, number
from experiments.studies.report.pictures import of_group, pooled_groups, seed_words
from experiments.studies.report.report_page import Block, Gallery, PageTable, Picture, Row, Section, Text

_SHARES = {"sensitivity": "Sensitivity", "specificity": "Specificity", "ppv": "PPV", "npv": "NPV", "f1": "F1"}
_CALIBRATION = {"calibration slope": "Slope", "calibration intercept": "Intercept", "brier": "Brier score"}
_CALIBRATION |= {"scaled brier": "Scaled Brier score"}
_THRESHOLDS = (0.2, 0.5, 0.8)


def class_sections(series: PointSeries, note: str) -> list[Section]:
    """The sections of a classification task."""
    classes = len(series.label.classes)
    sections = [Section(f"{series.key}-roc", "Discrimination", _roc_blocks(series, note))]
    if classes > 2:
        sections[0].blocks.append(_kappa_table(series))
        text = "Operating points, calibration and decision curves are not drawn for three or more classes."
        sections[0].blocks.append(Text(text, kind="missing"))
        return sections
    return [
        *sections,
        Section(f"{series.key}-calibration", "Calibration", _calibration_blocks(series, note)),
        Section(
            f"{series.key}-decision",
            "Clinical usefulness",
            decision_blocks(series, _decisions(series), _THRESHOLDS, note),
        ),
    ]


def _scores(series: PointSeries, group: Group, number: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Whether each patient is of a class, and its score, by encoder."""
    found = {}
    for name, predictions in series.first_seed().items():
        rows = of_group(predictions, group)
        target = rows["target"].to_numpy(dtype=int) == number
        found[name] = (target, rows[score_columns(rows)[number]].to_numpy(dtype=float))
    return found


def _roc_blocks(series: PointSeries, note: str) -> list[Block]:
    names, pictures = series.label.class_names, []
    reached = {} if len(names) > 2 else _operating_points(series)
    for group in pooled_groups(series):
        for place in range(1, 2) if len(names) == 2 else range(len(names)):
            scores = _scores(series, group, place)
            against = "" if len(names) == 2 else f", {names[place]} against the rest"
            titled = {ENCODERS[name].title: value for name, value in scores.items()}
            marks = {ENCODERS[name].title: found[group.name] for name, found in reached.items() if group.name in found}
            lines = [encoder_line(name) for name in scores]
            title = f"{TASKS[series.task].title}: {group.name}{against}"
            own = fold_of(group.rows)
            folds = None if own is None else dict.fromkeys(titled, own)
            figure = roc_plot(titled, title, note, marks or None, lines, folds)
            found = {name: auroc_of(*value, own) for name, value in titled.items()}
            areas = "; ".join(f"{name} {interval(area)}" for name, area in found.items())
            pictures.append(
                Picture(
                    f"roc-{series.key}-{group.name}-{place}",
                    figure,
                    f"ROC curves, {group.name}{against}. {_AREA[own is not None]} {seed_words(series)}",
                    f"ROC curves of {len(scores)} encoders. AUC (95 % CI): {areas}.",
                )
            )
    blocks: list[Block] = [Gallery(tuple(pictures))]
    if len(names) == 2:
        blocks.append(_operating_table(series, reached) if reached else Text(_NO_VALIDATION, kind="missing"))
    return blocks


_AREA = {
    False: "AUC with DeLong's interval.",
    True: "Mean of the curves of the folds, weighted by pairs, and AUC within folds with its bootstrap interval; the "
    "dots are of all folds together, each at its own threshold.",
}
_NO_VALIDATION = (
    "Sensitivity and specificity are not given: the predictions hold no validation patients of both classes, on whom a "
    "threshold could be chosen."
)


def _operating_points(series: PointSeries) -> dict[str, dict[str, OperatingPoint]]:
    """What every encoder reaches in every pooled group at Youden's threshold of its validation patients."""
    found: dict[str, dict[str, OperatingPoint]] = {}
    for name, predictions in series.first_seed().items():
        for group in pooled_groups(series):
            point = at_validation_threshold(predictions, of_group(predictions, group))
            if point is not None:
                found.setdefault(name, {})[group.name] = point
    return found


def at_validation_threshold(predictions: pd.DataFrame, rows: pd.DataFrame) -> OperatingPoint | None:
    """What tested patients reach at Youden's threshold of the validation patients, in every fold at its own.

    Args:
        predictions: Predictions of two classes, as `PredictionWriter` writes them.
        rows: The tested ones of them.

    Returns:
        The operating point; its threshold is NaN where folds have thresholds of their own. None where the validation
        patients of some fold are not of both classes.
    """
    column = score_columns(predictions)[1]
    validated = predictions[predictions["part"] == "val"]
    folds = sorted(rows["fold"].unique()) if "fold" in rows else [None]
    score, target = rows[column].to_numpy(dtype=float), rows["target"].to_numpy(dtype=int)
    called = np.zeros(len(rows), dtype=bool)
    threshold = float("nan")
    for fold in folds:
        own = validated if fold is None else validated[validated["fold"] == fold]
        truth = own["target"].to_numpy(dtype=int)
        if len(set(truth.tolist())) < 2:
            return None
        threshold = youden_threshold(truth, own[column].to_numpy(dtype=float))
        members = np.ones(len(rows), dtype=bool) if fold is None else (rows["fold"] == fold).to_numpy(dtype=bool)
        called[members] = score[members] >= threshold
    if folds == [None]:
        return operating_point(target, score, threshold)
    point = operating_point(target, called.astype(float), 0.5)
    return OperatingPoint(
        float("nan"),
        point.true_positives,
        point.false_positives,
        point.true_negatives,
        point.false_negatives,
        point.estimates,
    )


def _operating_table(series: PointSeries, reached: dict[str, dict[str, OperatingPoint]]) -> PageTable:
    rows, frames = [], []
    for group in pooled_groups(series):
        rows.append(Row((capital(group.name),), heading=True))
        for name, points in reached.items():
            if group.name not in points:
                rows.append(Row((ENCODERS[name].title, *("\N{EN DASH}" for _ in range(len(_SHARES) + 2)))))
                continue
            point = points[group.name]
            cutoff = "by fold" if np.isnan(point.threshold) else number(point.threshold, 3)
            counts = (
                f"{point.true_positives} / {point.false_positives} / {point.false_negatives} / {point.true_negatives}"
            )
            values = [interval(point.estimates[share]) for share in _SHARES]
            rows.append(Row((ENCODERS[name].title, cutoff, counts, *values)))
            frame = estimates_table(point.estimates).assign(group=group.name, encoder=name, threshold=point.threshold)
            frames.append(frame)
    return PageTable(
        f"operating-points-{series.key}",
        "Operating points: the threshold was chosen on validation patients alone (largest sensitivity + specificity).",
        ("Encoder", "Threshold", "TP / FP / FN / TN", *(f"{title} (95 % CI)" for title in _SHARES.values())),
        tuple(rows),
        pd.concat(frames, ignore_index=True),
        f"Wilson intervals; of F1 that of the share of TP among TP, FP and FN, of which it is a function. "
        f"{seed_words(series)}",
    )


def _kappa_table(series: PointSeries) -> PageTable:
    rows, records = [], []
    weights = "with quadratic weights" if series.label.ordered else "without weights, as the classes have no order"
    for group in pooled_groups(series):
        rows.append(Row((capital(group.name),), heading=True))
        for name, predictions in series.first_seed().items():
            outcome = next(outcomes_of(of_group(predictions, group)))
            kappa = outcome.kappa(series.label.ordered) or undefined(
                len(outcome.rows), None, "no kappa of these classes"
            )
            rows.append(Row((ENCODERS[name].title, str(len(outcome.rows)), interval(kappa))))
            records.append({"group": group.name, "encoder": name, "n": len(outcome.rows), "kappa": kappa.value})
            records[-1] |= {"low": kappa.low, "high": kappa.high, "interval": kappa.interval}
    return PageTable(
        f"kappa-{series.key}",
        f"Agreement of the most probable class with the truth: kappa {weights}.",
        ("Encoder", "n", "Kappa (95 % CI)"),
        tuple(rows),
        pd.DataFrame(records),
        seed_words(series),
    )


def _calibration_blocks(series: PointSeries, note: str) -> list[Block]:
    shown = pooled_groups(series)
    rows, frames, pictures = [], [], []
    scores = {group.name: _scores(series, group, 1) for group in shown}
    for group in shown:
        rows.append(Row((capital(group.name),), heading=True))
        for name, (target, probability) in scores[group.name].items():
            summary = calibration_summary(target, probability)
            counts = (str(len(target)), str(int(target.sum())))
            rows.append(Row((ENCODERS[name].title, *counts, *(interval(summary[key]) for key in _CALIBRATION))))
            frames.append(estimates_table(summary).assign(group=group.name, encoder=name))
    for name in series.first_seed():
        own = {group.name: scores[group.name][name] for group in shown}
        figure = calibration_plot(own, f"{TASKS[series.task].title}: {ENCODERS[name].title}", note)
        caption = f"Calibration of {ENCODERS[name].title}: observed share against the score, by tenths."
        alt = "; ".join(
            f"{group}: mean prediction {number(float(p.mean()))}, observed share {number(float(t.mean()))}"
            for group, (t, p) in own.items()
        )
        pictures.append(Picture(f"calibration-{series.key}-{name}", figure, caption, f"Calibration curve. {alt}."))
    table = PageTable(
        f"calibration-{series.key}",
        "Calibration: slope (1 when calibrated), intercept (0 when calibrated) and Brier scores, with 95 % CI.",
        ("Encoder", "n", "Positives", *_CALIBRATION.values()),
        tuple(rows),
        pd.concat(frames, ignore_index=True),
        "Scores are as the models give them; the section on doubt shows them calibrated. Scaled Brier score: 1 is "
        f"perfect, 0 knows no more than prevalence. {seed_words(series)}",
    )
    return [table, Gallery(tuple(pictures))]


def _decisions(series: PointSeries) -> list[Decisions]:
    return [
        Decisions(group.name, {name: decision_curve(*scores) for name, scores in _scores(series, group, 1).items()})
        for group in pooled_groups(series)
    ]
