"""What a report says of how it was made, and of its limits."""

from __future__ import annotations

from collections.abc import Sequence

from datamodules.cohort.cohort import Cohort
from experiments.registry import TASKS, task_label
from experiments.runs.tracking import git_commit
from experiments.statistics.support import MARKED
from experiments.studies.report.finished_points import PointSeries
from experiments.studies.report.report_page import Section, Text


def methods_section(cohort: Cohort, found: Sequence[PointSeries]) -> Section:
    """Partition, outcomes, models and statistics."""
    tasks = list(dict.fromkeys(series.task for series in found))
    if cohort.info.evaluation == "folds":
        partition = (
            "The cohort is evaluated in folds of whole sites, balanced by outcome: every patient is tested once, by "
            "models none of whose stages saw the patient's site. AUC and C-index compare patients of the same fold "
            "alone, each fold weighing as much as its comparable pairs, and patients are resampled within their fold: "
            "scores of different folds come from different models without a common level, and comparing them biases "
            "both downwards (Forman and Scholz, 2010; Airola et al., 2011). The pooled figures, of log-risks centred "
            "on each fold's validation patients, stand beside them. Calibration, operating points and Kaplan-Meier "
            "curves are of all folds together, every fold with its own thresholds and cuts."
        )
    else:
        partition = (
            "Centres have roles. Encoders were pretrained in pretraining centres alone. Tasks were trained and "
            "checkpoints "
            "selected on internal training and validation patients; the internal test split and every external centre "
            "were tested once. No patient is in two roles or splits."
        )
    outcomes = Section(
        "outcomes", "Outcomes", [Text(items=tuple(f"{TASKS[name].title}: {_definition(name)}" for name in tasks))]
    )
    return Section("methods", "Methods", [Text(partition)], [outcomes, _models(), _statistics(found)])


def _definition(task: str) -> str:
    label = task_label(task)
    eligible = "; ".join(_eligible(column, values) for column, values in label.eligible.items())
    return f"{TASKS[task].definition}{f' Eligible: {eligible}.' if eligible else ''} Source: {TASKS[task].source}."


def _eligible(column: str, values: Sequence[int | str]) -> str:
    """Who is eligible, in words; values of a column that has none here stand as they are."""
    words: dict[tuple[str, tuple[int | str, ...]], str] = {
        ("malignancy", (1,)): "patients with a malignant tumour",
        ("malignancy", (0,)): "patients with a benign tumour",
    }
    stated = f"patients whose {column.replace('_', ' ')} is {' or '.join(map(str, values))}"
    return words.get((column, tuple(values)), stated)


def _models() -> Section:
    items = (
        "Predictors: the CT region of the kidney with the largest lesion, in the phases that were scanned; "
        "predictions of "
        "phases and examinations are averaged to one row per patient. Baselines on table columns read those that their "
        "card names.",
        "Label fractions are nested prefixes of one seeded order, stratified by outcome and centre; validation and "
        "test "
        "never shrink.",
        "Missing is missing: a label that is not recorded is left out of training and test of that task. Of table "
        "baselines a missing value is the median of the training patients. A missing phase is left out of the average.",
        "Class imbalance: losses weigh classes by the square root of their inverse frequency in training. Results "
        "are of the scores as the models give them; the sections on doubt calibrate them by validation patients, and "
        "update them with local patients of a centre.",
        "Output: a score of each class, or a log-risk. Thresholds and risk groups are chosen on validation patients.",
    )
    return Section("models", "Models", [Text(items=items)])


def _statistics(found: Sequence[PointSeries]) -> Section:
    survival = any(series.metric.survival for series in found)
    items = [
        "Unit: the patient. Every metric stands with its n, its positives or events, and a 95 % interval.",
        "Tables of results average the metric over seeds and resample patients (percentile bootstrap, the same "
        "replicates "
        "for all encoders); differences and relative gains are paired. The best baseline of a group is the one with "
        "the "
        "highest estimate there. p values are two-sided and corrected after Holm within a table.",
        "Figures of single patients are of one seed: ROC with DeLong's interval, operating points at Youden's "
        "threshold "
        "of validation with Wilson intervals, calibration slope and intercept by logistic recalibration with Wald "
        "intervals, Brier score, decision curves after Vickers and Elkin.",
        "Subgroups: the same bootstrap within each; heterogeneity by Cochran's Q.",
        f"{MARKED} The CSV of a table names the method of each interval.",
    ]
    if survival:
        items.append(
            "Survival: Harrell's and Uno's C-index, cumulative/dynamic AUC with censoring weighted away, "
            "Kaplan-Meier with "
            "log-log intervals, log-rank test, Cox regression with Efron's ties, decision curves with censoring after "
            "Vickers and others (2008)."
        )
    items.append(f"Code: Renal VLM suite, commit {git_commit()[:12]}.")
    return Section("statistics", "Statistics", [Text(items=tuple(items))])


def limits_section(cohort: Cohort, found: Sequence[PointSeries]) -> Section:
    """Limits that the data show; the authors add theirs."""
    items = []
    if cohort.info.phantom:
        items.append("The patients are generated. No number here says anything about patients.")
    if cohort.info.intensity == "rendered":
        items.append(
            "CT intensities are rendered from masks: texture and enhancement carry no more than the renderer drew."
        )
    if cohort.info.evaluation == "folds":
        items.append("There is no external cohort: sites are left out in turn, all of one source.")
    few = [series for series in found if len(series.seeds(series.fraction)) < 2]
    if few:
        items.append(f"One seed only, so that the spread over seeds is not known: {', '.join(s.key for s in few)}.")
    items.append("The best baseline of each group is chosen by its result there, which favours baselines.")
    items.append("Subgroups are small and their tests are many; they describe and do not prove.")
    return Section("limits", "Limits", [Text(items=tuple(items))])
