"""A linear model on what stage 1 reads that starts from the prompts of its task and is pulled towards them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.preprocessing import StandardScaler

from datamodules.errors import DataError
from datamodules.tasks import RoiDataModule
from experiments.aligned.zero_shot.prompt_sets import load_prompts
from experiments.finetuning.attribute_space import AttributeSpace
from experiments.registry import prompts_of
from experiments.statistics.partial_likelihood import PartialLikelihood, ascend
from experiments.statistics.penalty import balanced_folds, least_loss, weighted_log_loss
from experiments.statistics.prior_logistic import PriorLogistic, fit_prior_logistic
from lightning_modules.losses.balance import class_weights

TRUST = (1.0, 2.0, 4.0, 8.0)
"""How far the prompts part patients a priori: standard deviations of a difference of two classes' logits."""
RISK_SPREAD = 0.5
"""Standard deviation of the log-risk by which prompts part patients, and again what the labels add a priori."""


class Prompted(NamedTuple):
    """A fitted model.

    Args:
        weight: Weights [C, F] on frozen features.
        bias: Biases [C].
        trust: The one of `TRUST` that was chosen; NaN without a label.
    """

    weight: np.ndarray
    bias: np.ndarray
    trust: float

    def predict_proba(self, feature: np.ndarray) -> np.ndarray:
        """Scores of the classes [N, C] of features [N, F], which sum to one."""
        return PriorLogistic(self.weight, self.bias).predict_proba(feature)


class PromptedRisk(NamedTuple):
    """A fitted Cox model.

    Args:
        weight: Weights [F] on frozen features.
    """

    weight: np.ndarray

    def predict(self, feature: np.ndarray) -> np.ndarray:
        """Log-risk [N] of features [N, F]."""
        return np.asarray(feature @ self.weight)


def fit_prompted(
    module: RoiDataModule, space: AttributeSpace, feature: Sequence[np.ndarray], outcome: Sequence[np.ndarray],
    names: Sequence[str],
) -> Prompted:  # fmt: skip
    r"""Fit the model: logits are those of the prompts, times a trust, and what the labels add.

    What the labels add has a Gaussian prior, as in a ridge regression, on standardised readings of the attributes. Its
    inverse variance is their number :math:`K`, so that it parts patients a priori by one standard deviation of
    log-odds, whatever :math:`K` is. With few labels the scores are those of the prompts, with many those of a ridge
    regression. The trust is that of the least loss in folds of the training and validation patients; the model is
    fitted on the training patients. Without a training patient the prompts alone score, as in `make zeroshot`, their
    logarithms taken as linear.

    Args:
        module: DataModule of the task.
        space: How stage 1's heads read the features.
        feature: Frozen features [N, F] of the training and the validation patients.
        outcome: Their classes [N].
        names: Names of both, one after the other.

    Raises:
        DataError: if the task has no prompts, or they state nothing that is read.
    """
    train, val = (space.read(rows) for rows in feature)
    prompts = load_prompts(prompts_of(module.label.name)).ordered(module.label.classes)
    start = space.prompt_weights(prompts, np.concatenate([train, val]))
    if not len(train):
        return Prompted(start @ space.matrix.T, start @ space.shift, float("nan"))
    scaler = StandardScaler().fit(train)
    centre = _standardised(start * scaler.scale_, scaler.transform(train))
    weights = class_weights(module.class_counts, "root").numpy().astype(np.float64)
    readings = scaler.transform(np.concatenate([train, val]))
    target, precision = np.concatenate(outcome), float(readings.shape[1])

    def left_out(trust: float, rows: np.ndarray, tested: np.ndarray) -> float:
        model = fit_prior_logistic(readings[rows], target[rows], weights[target[rows]], trust * centre, precision)
        return weighted_log_loss(model.predict_proba(readings[tested]), target[tested], weights)

    trust = least_loss(TRUST, balanced_folds(names, target, module.seed), left_out, TRUST[0])
    own = slice(0, len(train))
    model = fit_prior_logistic(readings[own], target[own], weights[target[own]], trust * centre, precision)
    # Readings are linear in the features, and so is the model: it may be left for new patients as any other is.
    turned = model.weight / scaler.scale_
    return Prompted(turned @ space.matrix.T, model.bias + turned @ (space.shift - scaler.mean_), trust)


def _standardised(centre: np.ndarray, readings: np.ndarray) -> np.ndarray:
    """The prompts' weights scaled so that the logits of two classes differ by one standard deviation, root mean square.

    Args:
        centre: Weights on standardised readings [C, K].
        readings: Standardised readings of the training patients [N, K].
    """
    centre = centre - centre.mean(axis=0)
    spread = np.sqrt(2 * np.square(readings @ centre.T).sum(axis=1).mean() / (len(centre) - 1))
    return centre / spread if spread > 0 else centre


def fit_prompted_risk(
    module: RoiDataModule, space: AttributeSpace, feature: Sequence[np.ndarray], outcome: np.ndarray
) -> PromptedRisk:
    """Fit a Cox model that starts from the prompts of a high against a low risk.

    As `fit_prompted`, with Efron's ties; what prompts and labels add a priori is `RISK_SPREAD`. It is not chosen: the
    events of a fifth of some two hundred patients cannot tell.

    Args:
        module: DataModule of a survival task, which names the task whose prompts stand for risk.
        space: How stage 1's heads read the features.
        feature: Frozen features [N, F] of the training and the validation patients.
        outcome: Fields `event` and `months` of the training patients [N].

    Raises:
        DataError: if there are no such prompts, or the fit does not settle.
    """
    train, val = (space.read(rows) for rows in feature)
    prompts = load_prompts(prompts_of(module.label.name))
    start = space.prompt_weights(prompts, np.concatenate([train, val]))
    scaler = StandardScaler().fit(train)
    readings = scaler.transform(train)
    centre = RISK_SPREAD * _standardised(start * scaler.scale_, readings)
    slope = centre[-1] - centre[0]
    precision = readings.shape[1] / RISK_SPREAD**2
    likelihood = PartialLikelihood(readings, outcome["months"], outcome["event"], precision, slope)
    found = ascend(likelihood, slope)
    if not found.settled:
        raise DataError(
            f"The Cox model of task {module.label.name} on {len(slope)} readings of {len(train)} patients did not "
            "settle; check the features with `make qc`."
        )
    return PromptedRisk(space.matrix @ (found.point / scaler.scale_))
