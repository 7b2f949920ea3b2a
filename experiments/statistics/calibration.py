"""Whether predicted probabilities are what is observed: slope, intercept, Brier score, curve."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import SplineTransformer

from datamodules.errors import DataError
from experiments.statistics.bootstrap import Statistic, bootstrap, mean_of, ratio, weighted_means
from experiments.statistics.cox import cox_regression
from experiments.statistics.cox_fit import NoMaximumError
from experiments.statistics.estimate import (
    Estimate,
    predicted_survival_arrays,
    probabilities,
    survival_arrays,
    undefined,
)
from experiments.statistics.kaplan_meier import survival_at
from experiments.statistics.operating_point import wilson
from experiments.statistics.support import WALD, Support
from experiments.statistics.weighted_survival import FollowUp, known_weights

CLIP = 1e-6
"""Probabilities nearer to 0 or 1 are moved this far away, since their log-odds are not finite."""


def calibration_slope(target: np.ndarray, probability: np.ndarray) -> Estimate:
    r"""Slope of logistic recalibration (Cox, Biometrika 1958): below 1, predictions are too extreme.

    .. math:: logit(y) = a + b \, logit(p), \quad b = 1 \text{ when calibrated}

    Args:
        target: 0 or 1 [N].
        probability: Predicted probability of 1 [N].

    Returns:
        The maximum-likelihood slope with Wald's interval. Undefined when a class has no patient, when all predictions
        are equal, or when they separate the classes, since the slope is then infinite.

    Raises:
        DataError: if lengths differ, a target is not 0 or 1, or a probability lies outside [0, 1].
    """
    target, probability = probabilities(target, probability)
    n, positives = len(target), int(target.sum())
    odds = logit(np.clip(probability, CLIP, 1 - CLIP))
    if positives in (0, n):
        return undefined(n, positives, "one class only")
    if np.ptp(odds) == 0 or _separated(target, odds):
        return undefined(n, positives, "predictions are all equal, or separate the classes")
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10, max_iter=200)
    model.fit(odds[:, None], target)
    fitted = model.predict_proba(odds[:, None])[:, 1]
    design = np.column_stack([np.ones(n), odds])
    information = design.T @ (design * (fitted * (1 - fitted))[:, None])
    return _wald(float(model.coef_[0, 0]), float(np.sqrt(np.linalg.inv(information)[1, 1])), n, positives)


def calibration_intercept(target: np.ndarray, probability: np.ndarray) -> Estimate:
    r"""Calibration in the large (Van Calster et al., BMC Medicine 2019): above 0, predictions are too low.

    .. math:: logit(y) = a + logit(p), \quad a = 0 \text{ when calibrated}

    Args:
        target: 0 or 1 [N].
        probability: Predicted probability of 1 [N].

    Returns:
        The maximum-likelihood intercept, slope fixed at 1, with Wald's interval; undefined when a class has no patient.

    Raises:
        DataError: as of `calibration_slope`.
    """
    target, probability = probabilities(target, probability)
    n, positives = len(target), int(target.sum())
    if positives in (0, n):
        return undefined(n, positives, "one class only")
    odds = logit(np.clip(probability, CLIP, 1 - CLIP))
    # At these ends all predictions lie above or below the prevalence, so a root lies between them.
    ends = logit(positives / n) - np.array([odds.max(), odds.min()])
    value = float(brentq(lambda shift: expit(odds + shift).sum() - positives, ends[0] - 1, ends[1] + 1, xtol=1e-12))
    fitted = expit(odds + value)
    return _wald(value, float(1 / np.sqrt((fitted * (1 - fitted)).sum())), n, positives)


def _separated(target: np.ndarray, odds: np.ndarray) -> bool:
    positive, negative = odds[target], odds[~target]
    return bool(negative.max() <= positive.min() or positive.max() <= negative.min())


def _wald(value: float, error: float, n: int, events: int) -> Estimate:
    spread = float(norm.ppf(0.975)) * error
    return Estimate(value, value - spread, value + spread, n, events, WALD)


def brier(target: np.ndarray, probability: np.ndarray) -> Statistic:
    """Brier score as a statistic of weighted patients: the mean squared error of the probability (Brier, 1950).

    Raises:
        DataError: as of `calibration_slope`.
    """
    target, probability = probabilities(target, probability)
    return mean_of(np.square(probability - target))


def scaled_brier(target: np.ndarray, probability: np.ndarray) -> Statistic:
    """1 - Brier / Brier of the prevalence, as a statistic of weighted patients: 1 is perfect, 0 knows only prevalence.

    After Steyerberg et al., Epidemiology 2010. NaN where the weights leave one class.

    Raises:
        DataError: as of `calibration_slope`.
    """
    score = brier(target, probability)
    positive = np.asarray(target, dtype=np.float64)

    def statistic(weights: np.ndarray) -> np.ndarray:
        prevalence = weighted_means(positive, weights)
        return 1 - ratio(score(weights), prevalence * (1 - prevalence))

    variance = float(positive.mean() * (1 - positive.mean())) if len(positive) else 0.0
    return Statistic(statistic, Support(1 - float(ratio(1.0, variance)), 1.0, len(positive)))


def calibration_summary(
    target: np.ndarray, probability: np.ndarray, replicates: int = 2000, seed: int = 0
) -> dict[str, Estimate]:
    """Slope, intercept, Brier score and scaled Brier score with their intervals.

    Raises:
        DataError: as of `calibration_slope`, or if there is no patient.
    """
    n, positives = len(target), int(np.sum(target))
    return {
        "calibration slope": calibration_slope(target, probability),
        "calibration intercept": calibration_intercept(target, probability),
        "brier": bootstrap(brier(target, probability), n, replicates, seed, positives)[0],
        "scaled brier": bootstrap(scaled_brier(target, probability), n, replicates, seed, positives)[0],
    }


def expected_calibration_error(target: np.ndarray, probability: np.ndarray, groups: int = 10) -> Statistic:
    r"""Mean distance of observed share and mean prediction as a statistic of weighted patients.

    .. math:: ECE = \sum_g \frac{n_g}{n} |\bar y_g - \bar p_g|

    After Naeini et al., AAAI 2015, in groups of about equal size, which the patients as they are define. It is above 0
    by chance also where predictions are calibrated, the more so the fewer patients a group has.

    Args:
        target: 0 or 1 [N].
        probability: Predicted probability of 1 [N].
        groups: Groups by quantile of the prediction.

    Raises:
        DataError: as of `calibration_slope`, or if there is no patient or no group.
    """
    target, probability = probabilities(target, probability)
    members = np.stack(_quantile_groups(probability, groups), axis=1).astype(np.float64)
    difference = members * (target - probability)[:, None]

    def statistic(weights: np.ndarray) -> np.ndarray:
        drawn = weights.astype(np.float64)
        return ratio(np.abs(drawn @ difference).sum(axis=1), drawn.sum(axis=1))

    return Statistic(statistic, Support(0.0, 1.0, len(target)))


def smooth_calibration(target: np.ndarray, probability: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Observed share as a smooth function of the prediction: a logistic regression on a natural cubic spline.

    After Austin and Steyerberg, Statistics in Medicine 2014, with three knots at quantiles of the log-odds.

    Args:
        target: 0 or 1 [N].
        probability: Predicted probability of 1 [N].
        at: Predictions where the curve is wanted [M].

    Returns:
        float64 [M]; NaN where a class has no patient, or predictions are all equal.

    Raises:
        DataError: as of `calibration_slope`.
    """
    target, probability = probabilities(target, probability)
    odds, wanted = (logit(np.clip(values, CLIP, 1 - CLIP)) for values in (probability, np.asarray(at, dtype=float)))
    if len(np.unique(target)) < 2 or np.ptp(odds) == 0:
        return np.full(len(wanted), np.nan)
    knots = np.unique(np.quantile(odds, [0.1, 0.5, 0.9]))
    spline = SplineTransformer(degree=3, knots=_spread(knots)[:, None], extrapolation="linear", include_bias=False)
    design = spline.fit_transform(odds[:, None])
    model = LogisticRegression(C=100.0, solver="newton-cholesky").fit(design, target)
    smooth: np.ndarray = model.predict_proba(spline.transform(wanted[:, None]))[:, 1]
    return smooth


def _spread(knots: np.ndarray) -> np.ndarray:
    """At least two knots that differ."""
    return knots if len(knots) > 1 else np.array([knots[0] - 1.0, knots[0] + 1.0])


def calibration_curve(target: np.ndarray, probability: np.ndarray, groups: int = 10) -> pd.DataFrame:
    """Observed share of positives against the mean prediction, in groups of about equal size.

    Args:
        target: 0 or 1 [N].
        probability: Predicted probability of 1 [N].
        groups: Groups by quantile of the prediction; equal predictions stay together, so there may be fewer.

    Returns:
        Columns predicted, observed, low, high (Wilson), n, events, interval, by increasing prediction.

    Raises:
        DataError: as of `calibration_slope`, or if there is no patient or no group.
    """
    target, probability = probabilities(target, probability)
    rows = []
    for members in _quantile_groups(probability, groups):
        share = wilson(int(target[members].sum()), int(members.sum()))
        rows.append({"predicted": float(probability[members].mean()), **_observed(share)})
    return pd.DataFrame(rows)


def survival_calibration_curve(
    time_months: np.ndarray, event: np.ndarray, survival: np.ndarray, horizon_months: float, groups: int = 5
) -> pd.DataFrame:
    """Observed event rate by a horizon, by Kaplan-Meier, against the predicted one, in groups of about equal size.

    Args:
        time_months: Time to event or censoring [N].
        event: Whether the event was observed [N].
        survival: Predicted probability of surviving the horizon [N].
        horizon_months: The horizon.
        groups: Groups by quantile of the prediction.

    Returns:
        Columns predicted, observed, low, high (log-log Greenwood), n, events up to the horizon, by increasing predicted
        risk. Undefined in a group that nobody is followed in up to the horizon.

    Raises:
        DataError: as of `survival_arrays`, or if a probability lies outside [0, 1].
    """
    time, event, survival = survival_arrays(time_months, event, survival)
    probabilities(event, survival)
    rows = []
    for members in _quantile_groups(1 - survival, groups):
        kept = survival_at(time[members], event[members], horizon_months)
        rate = kept._replace(value=1 - kept.value, low=1 - kept.high, high=1 - kept.low)
        rows.append({"predicted": float(1 - survival[members].mean()), **_observed(rate)})
    return pd.DataFrame(rows)


def survival_calibration_error(
    time_months: np.ndarray, event: np.ndarray, survival: np.ndarray, horizon_months: float, groups: int = 5
) -> Statistic:
    """`expected_calibration_error` of predicted survival at a horizon, as a statistic of weighted patients.

    The observed event rate of a group is that of its patients whose state is known, censoring weighted away within all
    patients, as in the Brier score. A group of whom no state is known is left out.

    Args:
        time_months: Time to event or censoring [N].
        event: Whether the event was observed [N].
        survival: Predicted probability of surviving the horizon [N].
        horizon_months: The horizon.
        groups: Groups by quantile of the prediction.

    Raises:
        DataError: as of `survival_calibration_curve`, or if there is no patient or no group.
    """
    time, event, survival = predicted_survival_arrays(time_months, event, survival)
    members = np.stack(_quantile_groups(survival, groups), axis=1).astype(np.float64)
    followed, lost = FollowUp(time, event), event & (time <= horizon_months)

    def statistic(weights: np.ndarray) -> np.ndarray:
        known = known_weights(followed, horizon_months, weights)
        seen, size = known @ members, weights @ members
        observed = ratio(np.where(lost, known, 0.0) @ members, seen)
        expected = ratio((weights * (1 - survival)) @ members, size)
        distance = np.where(seen > 0, np.abs(observed - expected) * size, 0.0).sum(axis=1)
        return ratio(distance, np.where(seen > 0, size, 0.0).sum(axis=1))

    return Statistic(statistic, Support(0.0, 1.0, len(time)))


def survival_calibration_slope(
    time_months: np.ndarray, event: np.ndarray, survival: np.ndarray, horizon_months: float
) -> Estimate:
    r"""Slope of recalibration of predicted survival at a horizon; below 1, predictions are too extreme.

    Cox regression of what happens up to the horizon on the complementary log-log of the predicted survival, after
    McLernon et al., Annals of Internal Medicine 2023:

    .. math:: h(t) = h_0(t) \exp(b \log(-\log \hat S)), \quad b = 1 \text{ when calibrated}

    Args:
        time_months: Time to event or censoring [N].
        event: Whether the event was observed [N].
        survival: Predicted probability of surviving the horizon [N].
        horizon_months: The horizon; later follow-up is not used.

    Returns:
        The maximum-likelihood slope with Wald's interval, n and events up to the horizon; undefined without events,
        where all predictions are equal, or where the likelihood has no maximum.

    Raises:
        DataError: as of `survival_calibration_curve`.
    """
    time, event, survival = survival_arrays(time_months, event, survival)
    probabilities(event, survival)
    kept = np.clip(survival, CLIP, 1 - CLIP)
    early = event & (time <= horizon_months)
    n, events = len(time), int(early.sum())
    slope = pd.DataFrame({"slope": np.log(-np.log(kept))})
    if not events or np.ptp(slope["slope"].to_numpy()) == 0:
        return undefined(n, events, "no event, or all predictions are equal")
    try:
        fitted = cox_regression(slope, np.minimum(time, horizon_months), early, ["slope"])
    except NoMaximumError:
        return undefined(n, events, "the likelihood has no maximum")
    row = fitted.table.iloc[0]
    return _wald(float(row["coefficient"]), float(row["standard_error"]), n, events)


def observed_over_expected(
    time_months: np.ndarray, event: np.ndarray, survival: np.ndarray, horizon_months: float
) -> Estimate:
    """Observed event rate by a horizon, by Kaplan-Meier, over the mean predicted one: 1 when calibrated in the large.

    Args as of `survival_calibration_slope`.

    Returns:
        The ratio with the log-log Greenwood interval of the observed rate; undefined where nobody is followed up to
        the horizon, or no event is predicted.

    Raises:
        DataError: as of `survival_calibration_curve`.
    """
    time, event, survival = survival_arrays(time_months, event, survival)
    probabilities(event, survival)
    kept, expected = survival_at(time, event, horizon_months), float(1 - survival.mean())
    if expected <= 0:
        return undefined(kept.n, kept.events, "no event is predicted")
    value, low, high = ((1 - end) / expected for end in (kept.value, kept.high, kept.low))
    return kept._replace(value=value, low=low, high=high)


def _observed(share: Estimate) -> dict[str, float | int | str | None]:
    numbers = {"observed": share.value, "low": share.low, "high": share.high, "n": share.n, "events": share.events}
    return numbers | {"interval": share.interval}


def _quantile_groups(values: np.ndarray, groups: int) -> list[np.ndarray]:
    if groups < 1 or not len(values):
        raise DataError(f"{groups} groups of {len(values)} patients were asked for; expected at least one of each.")
    edges = np.unique(np.quantile(values, np.linspace(0, 1, groups + 1)[1:-1], method="higher"))
    number = np.searchsorted(edges, values, side="right")
    return [number == group for group in np.unique(number)]
