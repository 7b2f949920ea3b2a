"""The tables of doubt of a task: calibration before and after, by centre with local patients, sets, and abstention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from experiments.doubt.calibrators import CLIP, SIGMOID, fit_calibrator, log_loss
from experiments.doubt.prediction_sets import centre_sets, coverage, risk_coverage, selective_error, set_size
from experiments.doubt.task_doubt import TaskDoubt, TestedPredictions, asked_and_said
from experiments.scores.results_table import Group, groups
from experiments.statistics.bootstrap import bootstrap
from experiments.statistics.calibration import (
    brier,
    calibration_intercept,
    calibration_slope,
    expected_calibration_error,
)
from experiments.statistics.estimate import Estimate
from experiments.statistics.operating_point import wilson

BEFORE, AFTER = "before", "after"
ECE, SLOPE, INTERCEPT, BRIER = "expected calibration error", "slope", "intercept", "brier"
ANSWERED = 0.8
LOCAL = (20, 50)
_LEFT = 10
_DRAWS = 100


def grouped(doubt: TaskDoubt, predictions: pd.DataFrame) -> Iterator[tuple[Group, TestedPredictions]]:
    """The tested patients of every group."""
    for group in groups(predictions):
        yield group, doubt.tested.of(group.rows["patient_id"])


def calibration_table(doubt: TaskDoubt, predictions: pd.DataFrame, replicates: int = 2000) -> pd.DataFrame:
    """Calibration of every group with the scores as they are, and calibrated.

    Returns:
        Columns group, kind, stage (before, after), statistic, value, low, high, n, events, interval.
    """
    rows = []
    for group, answers in grouped(doubt, predictions):
        for stage, values in ((BEFORE, answers.score), (AFTER, answers.probability)):
            target, probability = asked_and_said(answers.target, values)
            n, events = len(target), int(target.sum())
            found = {
                ECE: bootstrap(expected_calibration_error(target, probability), n, replicates, events=events)[0],
                SLOPE: calibration_slope(target, probability),
                INTERCEPT: calibration_intercept(target, probability),
                BRIER: bootstrap(brier(target, probability), n, replicates, events=events)[0],
            }
            rows += [estimate_row(group, estimate, stage=stage, statistic=name) for name, estimate in found.items()]
    return pd.DataFrame(rows)


def doubt_metrics(doubt: TaskDoubt, predictions: pd.DataFrame) -> dict[str, float]:
    """Expected calibration error before and after, coverage and size of the sets of every group, for MLflow."""
    found = {}
    for group, answers in grouped(doubt, predictions):
        everybody, name = np.ones((1, len(answers.target))), group.name.replace(" ", "_")
        for stage, values in ((BEFORE, answers.score), (AFTER, answers.probability)):
            error = expected_calibration_error(*asked_and_said(answers.target, values))
            found[f"ece_{stage}/{name}"] = float(error(everybody)[0])
        found[f"coverage/{name}"] = coverage(answers.sets, answers.target).value
        found[f"set_size/{name}"] = float(set_size(answers.sets)(everybody)[0])
    return found


def sets_table(doubt: TaskDoubt, predictions: pd.DataFrame, replicates: int = 2000) -> pd.DataFrame:
    """Coverage and size of the sets of every group, and the error of all and of the surest patients.

    Returns:
        Columns group, kind, statistic, value, low, high, n, events, interval.
    """
    rows = []
    for group, answers in grouped(doubt, predictions):
        n = len(answers.target)
        wrong = int((answers.probability.argmax(axis=1) != answers.target).sum())
        found = {
            "coverage": coverage(answers.sets, answers.target),
            "set size": bootstrap(set_size(answers.sets), n, replicates)[0],
            "sets of one class": _share(answers.sets.sum(axis=1) == 1),
        }
        for answered in (1.0, ANSWERED):
            statistic = selective_error(answers.probability, answers.target, answered)
            found[f"error of {answered:.0%}"] = bootstrap(statistic, n, replicates, events=wrong)[0]
        for number in range(answers.sets.shape[1]):
            members = answers.target == number
            if members.any():
                found[f"coverage of class {number}"] = coverage(answers.sets[members], answers.target[members])
        rows += [estimate_row(group, estimate, statistic=name) for name, estimate in found.items()]
    return pd.DataFrame(rows)


def abstention_table(doubt: TaskDoubt, predictions: pd.DataFrame) -> pd.DataFrame:
    """The risk-coverage curves of the pooled groups, with a column `group`."""
    parts = [
        risk_coverage(answers.probability, answers.target).assign(group=group.name)
        for group, answers in grouped(doubt, predictions)
        if group.kind != "external"
    ]
    return pd.concat(parts, ignore_index=True)


def local_table(doubt: TaskDoubt, predictions: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """What recalibration with a few patients of a centre, and sets made by them alone, give the others of it.

    Of 20 local patients the intercept alone is fitted, of 50 intercept and slope (Steyerberg, Clinical Prediction
    Models 2019, chapter 20), on the calibrated log-odds; the others of the centre are tested, over 100 draws.

    Returns:
        One row per external centre and number of local patients: `group`, `local`, `n` (tested in each draw), `draws`,
        mean log loss and mean absolute intercept of the tested patients, coverage and mean size of their sets, before
        and after, with the 2.5th and 97.5th percentile over draws of their difference. No row of a centre that is too
        small.
    """
    rows = []
    for group, answers in grouped(doubt, predictions):
        target, probability = asked_and_said(answers.target, answers.probability)
        classes, scores = answers.target, answers.probability
        for local in LOCAL if group.kind == "external" else ():
            found = []
            for fitted, tested in local_draws(len(target), local, seed):
                if len(np.unique(target[fitted])) < 2:
                    continue
                after = _updated(probability, target, fitted, with_slope=local >= max(LOCAL))[tested]
                own = centre_sets(scores[fitted], classes[fitted], scores[tested])
                found.append([
                    *_losses(target[tested], probability[tested]), *_covered(answers.sets[tested], classes[tested]),
                    *_losses(target[tested], after), *_covered(own, classes[tested]),
                ])  # fmt: skip
            if found:
                moved = before_and_after(found, ("log_loss", "distance", "coverage", "set_size"))
                rows.append({"group": group.name, "local": local, "n": len(target) - local, **moved})
    return pd.DataFrame(rows)


def local_draws(patients: int, local: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draws of local patients of a centre, and its others, as positions; none where too few would be left."""
    rng = np.random.default_rng(seed)
    for _ in range(_DRAWS if patients >= local + _LEFT else 0):
        order = rng.permutation(patients)
        yield order[:local], order[local:]


def _updated(probability: np.ndarray, target: np.ndarray, fitted: np.ndarray, with_slope: bool) -> np.ndarray:
    if with_slope:
        both = np.column_stack([1 - probability, probability])
        return fit_calibrator(both[fitted], target[fitted], SIGMOID)(both)[:, 1]
    odds = logit(np.clip(probability, CLIP, 1 - CLIP))
    moved: np.ndarray = expit(odds + calibration_intercept(target[fitted], probability[fitted]).value)
    return moved


def _losses(target: np.ndarray, probability: np.ndarray) -> tuple[float, float]:
    loss = log_loss(np.column_stack([1 - probability, probability]), target)
    return loss, abs(float(target.mean() - probability.mean()))


def _covered(sets: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    return float(sets[np.arange(len(target)), target].mean()), float(sets.sum(axis=1).mean())


def before_and_after(found: Sequence[Sequence[float]], names: Sequence[str]) -> dict[str, float | int]:
    """Means over draws, and the 2.5th and 97.5th percentile of the difference, of some names.

    Args:
        found: Of every draw the values before, then those after.
        names: What the values are.
    """
    values = np.array(found)
    row: dict[str, float | int] = {"draws": len(values)}
    for place, name in enumerate(names):
        before, after = values[:, place], values[:, place + len(names)]
        low, high = np.percentile(after - before, [2.5, 97.5])
        row |= {f"{name}_before": float(before.mean()), f"{name}_after": float(after.mean())}
        row |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    return row


def _share(held: np.ndarray) -> Estimate:
    return wilson(int(held.sum()), len(held))


def estimate_row(group: Group, estimate: Estimate, **more: object) -> dict[str, object]:
    """A row of a table of doubt: the group, what else there is, and the estimate with its interval."""
    return {"group": group.name, "kind": group.kind, **more, **estimate._asdict()}
