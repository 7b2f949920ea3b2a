"""From scores to probabilities: temperature, sigmoid, beta and isotonic calibration, chosen by cross-validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from datamodules.errors import DataError

NONE, TEMPERATURE, SIGMOID, BETA, ISOTONIC = "none", "temperature", "sigmoid", "beta", "isotonic"
METHODS = (NONE, TEMPERATURE, SIGMOID, BETA, ISOTONIC)
"""From the fewest parameters to the most; the first that is as good as the best is taken."""
FOLDS, REPEATS = 5, 4
CLIP = 1e-6
"""Scores nearer to 0 or 1 are moved this far away, since their logarithms are not finite."""
_SPAN = (-5.0, 5.0)  # of the logarithm of the inverse temperature


@dataclass(frozen=True)
class Calibrator:
    """Maps scores of classes that sum to 1 to calibrated probabilities; plain numbers, so that JSON holds it.

    Args:
        method: One of `METHODS`.
        parameters: Numbers by name for each map: one for all classes (temperature), one for the second of two classes,
            or one for each class against the rest, whose values are then made to sum to 1.
    """

    method: str
    parameters: tuple[Mapping[str, Any], ...] = field(default_factory=tuple)

    def __call__(self, score: np.ndarray) -> np.ndarray:
        """Probabilities float64 [N, C] of scores [N, C]."""
        score = _checked(score)
        if self.method == NONE or not len(score):
            return score
        if self.method == TEMPERATURE:
            warmed: np.ndarray = softmax(self.parameters[0]["inverse"] * np.log(score), axis=1)
            return warmed
        maps = [_APPLY[self.method](given) for given in self.parameters]
        if score.shape[1] == 2:
            second = maps[0](score[:, 1])
            return np.column_stack([1 - second, second])
        found = np.column_stack([own(score[:, number]) for number, own in enumerate(maps)])
        found = np.clip(found, CLIP, None)
        shares: np.ndarray = found / found.sum(axis=1, keepdims=True)
        return shares

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {"method": self.method, "parameters": [dict(given) for given in self.parameters]}

    @classmethod
    def of_dict(cls, content: Mapping[str, Any]) -> Calibrator:
        """From plain data, whatever else stands beside it."""
        return cls(content["method"], tuple(content["parameters"]))


@dataclass(frozen=True)
class ChosenCalibrator:
    """The calibrator that cross-validation chose.

    Args:
        calibrator: Fitted on all patients that were given.
        loss: Mean log loss of left-out patients by method.
        n: Patients.
    """

    calibrator: Calibrator
    loss: Mapping[str, float]
    n: int


def fit_calibrator(score: np.ndarray, target: np.ndarray, method: str) -> Calibrator:
    r"""Fit one method.

    Temperature (Guo et al., ICML 2017) is one number for all classes. Of two classes, and of each class against the
    rest (Zadrozny and Elkan, KDD 2002) of more, sigmoid is logistic regression on the log-odds (Platt, 1999), beta on
    log(p) and -log(1 - p) with both slopes at least 0 (Kull et al., AISTATS 2017), isotonic a rising step function.

    Args:
        score: float [N, C], scores that sum to 1.
        target: int [N], class of each patient.
        method: One of `METHODS`.

    Raises:
        DataError: if lengths differ, a class has no patient, or the method is not known.
    """
    score, target = _checked(score), np.asarray(target, dtype=np.int64)
    if method not in METHODS:
        raise DataError(f"Calibration by {method!r} was asked for; expected one of {', '.join(METHODS)}.")
    if len(score) != len(target) or len(np.unique(target)) < score.shape[1]:
        raise DataError(
            f"{len(score)} scores and targets {np.bincount(target, minlength=score.shape[1]).tolist()} by class were "
            "given; expected one target a patient, and patients of every class."
        )
    if method == NONE:
        return Calibrator(NONE)
    if method == TEMPERATURE:
        return Calibrator(TEMPERATURE, ({"inverse": _inverse_temperature(score, target)},))
    classes = [1] if score.shape[1] == 2 else list(range(score.shape[1]))
    return Calibrator(method, tuple(_FIT[method](score[:, number], target == number) for number in classes))


def choose_calibrator(score: np.ndarray, target: np.ndarray, seed: int = 0) -> ChosenCalibrator:
    """The simplest method whose log loss in repeated cross-validation is within a standard error of the least.

    The rule of one standard error (Breiman et al., Classification and Regression Trees, 1984), of the paired losses of
    patients: with few of them a map of many steps wins by chance. It is fitted on everybody.

    Args:
        score: float [N, C] of patients whom the model was not trained on.
        target: int [N].
        seed: Seed of the folds.

    Returns:
        The calibrator; where a class has fewer patients than there are folds scores stay as they are.

    Raises:
        DataError: as of `fit_calibrator`.
    """
    score, target = _checked(score), np.asarray(target, dtype=np.int64)
    counts = np.bincount(target, minlength=score.shape[1])
    if counts.min() < FOLDS:
        return ChosenCalibrator(Calibrator(NONE), {}, len(score))
    method, loss = choose_method(
        METHODS,
        lambda rows, method: fit_calibrator(score[rows], target[rows], method),
        score,
        target,
        lambda found: _losses(found, target),
        seed,
    )
    return ChosenCalibrator(fit_calibrator(score, target, method), loss, len(score))


def choose_method(
    methods: Sequence[str],
    fit: Callable[[np.ndarray, str], Callable[[np.ndarray], np.ndarray]],
    asked: np.ndarray,
    strata: np.ndarray,
    losses: Callable[[np.ndarray], np.ndarray],
    seed: int,
) -> tuple[str, dict[str, float]]:
    """The first method whose loss in repeated cross-validation is within a standard error of the least.

    Args:
        methods: From the simplest to the most flexible.
        fit: Maps positions of patients and a method to the map that is fitted on them.
        asked: What is mapped, of every patient [N, ...].
        strata: Classes or events, of which folds are alike [N].
        losses: Maps what was mapped of left-out patients [N, ...] to the loss of each [N].
        seed: Seed of the folds.

    Returns:
        The method, and the mean loss of left-out patients by method.
    """
    left_out: dict[str, list[np.ndarray]] = {method: [] for method in methods}
    for repeat in range(REPEATS):
        folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed + repeat).split(strata, strata))
        for method, kept in left_out.items():
            found = np.empty_like(asked)
            for rows, tested in folds:
                found[tested] = fit(rows, method)(asked[tested])
            kept.append(losses(found))
    mean = {method: np.mean(kept, axis=0) for method, kept in left_out.items()}
    least = min(methods, key=lambda method: mean[method].mean())
    best = next(method for method in methods if _as_good(mean[method], mean[least]))
    return best, {method: float(values.mean()) for method, values in mean.items()}


def _as_good(loss: np.ndarray, least: np.ndarray) -> bool:
    """Whether a mean loss is within one standard error of their difference of the least one."""
    difference = loss - least
    return bool(difference.mean() <= difference.std(ddof=1) / np.sqrt(len(difference)))


def log_loss(probability: np.ndarray, target: np.ndarray) -> float:
    """Mean negative log-probability of what was observed."""
    return float(_losses(probability, target).mean())


def _losses(probability: np.ndarray, target: np.ndarray) -> np.ndarray:
    losses: np.ndarray = -np.log(np.clip(probability[np.arange(len(target)), target], CLIP, 1.0))
    return losses


def _checked(score: np.ndarray) -> np.ndarray:
    score = np.asarray(score, dtype=np.float64)
    if score.ndim != 2 or score.shape[1] < 2 or not np.isfinite(score).all() or (score < 0).any():
        raise DataError(f"Scores of shape {score.shape} were given; expected finite ones of at least two classes.")
    score = np.clip(score, CLIP, 1.0)
    shares: np.ndarray = score / score.sum(axis=1, keepdims=True)
    return shares


def _inverse_temperature(score: np.ndarray, target: np.ndarray) -> float:
    logs, rows = np.log(score), np.arange(len(target))

    def loss(exponent: float) -> float:
        return float(-log_softmax(np.exp(exponent) * logs, axis=1)[rows, target].mean())

    return float(np.exp(minimize_scalar(loss, bounds=_SPAN, method="bounded", options={"xatol": 1e-8}).x))


def _logistic(design: np.ndarray, positive: np.ndarray) -> LogisticRegression:
    # A little shrinkage keeps the slope finite where scores separate the classes.
    return LogisticRegression(C=1e4, solver="newton-cholesky", tol=1e-10, max_iter=500).fit(design, positive)


def _fit_sigmoid(score: np.ndarray, positive: np.ndarray) -> dict[str, float]:
    model = _logistic(logit(np.clip(score, CLIP, 1 - CLIP))[:, None], positive)
    return {"slope": float(model.coef_[0, 0]), "intercept": float(model.intercept_[0])}


def _fit_beta(score: np.ndarray, positive: np.ndarray) -> dict[str, float]:
    design, kept = _beta_design(score), [0, 1]
    while True:
        model = _logistic(design[:, kept], positive)
        negative = [place for place, slope in zip(kept, model.coef_[0], strict=True) if slope < 0]
        if not negative or len(kept) == 1:
            break
        kept = [place for place in kept if place not in negative[:1]]
    slopes = dict(zip(kept, model.coef_[0].tolist(), strict=True))
    return {"a": slopes.get(0, 0.0), "b": slopes.get(1, 0.0), "intercept": float(model.intercept_[0])}


def _beta_design(score: np.ndarray) -> np.ndarray:
    kept = np.clip(score, CLIP, 1 - CLIP)
    return np.column_stack([np.log(kept), -np.log1p(-kept)])


def _fit_isotonic(score: np.ndarray, positive: np.ndarray) -> dict[str, list[float]]:
    # Neither 0 nor 1 was shown by a few patients: no step lies nearer to them than Laplace's rule allows.
    edge = 1 / (len(score) + 2)
    model = IsotonicRegression(y_min=edge, y_max=1 - edge, out_of_bounds="clip").fit(score, positive)
    return {"score": model.X_thresholds_.tolist(), "probability": model.y_thresholds_.tolist()}


_Map = Callable[[np.ndarray], np.ndarray]
_FIT: Mapping[str, Callable[[np.ndarray, np.ndarray], Mapping[str, Any]]] = {
    SIGMOID: _fit_sigmoid,
    BETA: _fit_beta,
    ISOTONIC: _fit_isotonic,
}
_APPLY: Mapping[str, Callable[[Mapping[str, Any]], _Map]] = {
    SIGMOID: lambda given: (
        lambda score: expit(given["slope"] * logit(np.clip(score, CLIP, 1 - CLIP)) + given["intercept"])
    ),
    BETA: lambda given: lambda score: expit(_beta_design(score) @ [given["a"], given["b"]] + given["intercept"]),
    ISOTONIC: lambda given: lambda score: np.interp(score, given["score"], given["probability"]),
}
