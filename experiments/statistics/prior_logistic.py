"""Logistic regression whose weights have a Gaussian prior around given ones, and its maximum a posteriori."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax, softmax

from datamodules.errors import DataError
from experiments.statistics.partial_likelihood import LikelihoodTerms, ascend


class PriorLogistic(NamedTuple):
    """A softmax regression: the logits of features [N, F] are `feature @ weight.T + bias`.

    Args:
        weight: float64 [C, F].
        bias: float64 [C].
    """

    weight: np.ndarray
    bias: np.ndarray

    def predict_proba(self, feature: np.ndarray) -> np.ndarray:
        """Scores of the classes [N, C], which sum to one."""
        scores: np.ndarray = softmax(feature @ self.weight.T + self.bias, axis=1)
        return scores


class _Posterior:
    """The log posterior at a point: the weights' departures from the centre, class by class, and all biases but one.

    The bias of the first class is 0, since a number added to all of them changes nothing.
    """

    def __init__(
        self, feature: np.ndarray, target: np.ndarray, weight: np.ndarray, centre: np.ndarray, precision: float
    ) -> None:
        self.feature, self.weight, self.precision = feature, weight, precision
        self.start = feature @ centre.T
        self.stated = np.eye(len(centre))[target]

    def unfolded(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Departures [C, F] and biases [C] of a point."""
        classes, features = self.start.shape[1], self.feature.shape[1]
        return point[: classes * features].reshape(classes, features), np.append(0.0, point[classes * features :])

    def _logits(self, point: np.ndarray) -> np.ndarray:
        departure, bias = self.unfolded(point)
        return self.start + self.feature @ departure.T + bias

    def value(self, point: np.ndarray) -> float:
        """The log posterior but for a constant."""
        likelihood = self.weight @ (self.stated * log_softmax(self._logits(point), axis=1)).sum(axis=1)
        return float(likelihood - self.precision * np.square(self.unfolded(point)[0]).sum())

    def terms(self, point: np.ndarray) -> LikelihoodTerms:
        """Value, gradient and information."""
        chance = softmax(self._logits(point), axis=1)
        departure, _ = self.unfolded(point)
        error = self.weight[:, None] * (self.stated - chance)
        slope = error.T @ self.feature - 2 * self.precision * departure
        gradient = np.concatenate([slope.ravel(), error.sum(axis=0)[1:]])
        return LikelihoodTerms(self.value(point), gradient, self._information(chance))

    def _information(self, chance: np.ndarray) -> np.ndarray:
        (_, classes), features = chance.shape, self.feature.shape[1]
        design = np.concatenate([self.feature, np.ones((len(chance), 1))], axis=1)
        size = features + 1
        full = np.empty((classes, size, classes, size))
        for one in range(classes):
            for other in range(one, classes):
                share = self.weight * chance[:, one] * ((one == other) - chance[:, other])
                block = design.T @ (design * share[:, None])
                full[one, :, other, :], full[other, :, one, :] = block, block.T
        square = full.reshape(classes * size, classes * size)
        slopes = [one * size + place for one in range(classes) for place in range(features)]
        kept = [*slopes, *(one * size + features for one in range(1, classes))]
        information = square[np.ix_(kept, kept)]
        information[np.arange(len(slopes)), np.arange(len(slopes))] += 2 * self.precision
        return information


def fit_prior_logistic(
    feature: np.ndarray, target: np.ndarray, weight: np.ndarray, centre: np.ndarray, precision: float
) -> PriorLogistic:
    r"""Fit a softmax regression with a Gaussian prior around the centre; the biases have none.

    The penalty :math:`\lambda \lVert W - M \rVert^2` makes the difference of two classes' weights vary by
    :math:`1 / \lambda` a priori around that of the centre, for any number of classes. Of two classes and a centre of 0
    it is the L2 penalty of scikit-learn at :math:`C = 1 / \lambda`, of more classes at :math:`C = 1 / (2 \lambda)`.

    Args:
        feature: Features of patients [N, F].
        target: Class of each [N]; every class occurs.
        weight: Weight of each in the likelihood [N].
        centre: Weights that the prior is centred on [C, F].
        precision: Inverse variance of the prior, lambda, above 0.

    Raises:
        DataError: if the fit does not settle.
    """
    posterior = _Posterior(feature, target, weight, centre, precision)
    classes, features = centre.shape
    found = ascend(posterior, np.zeros(classes * features + classes - 1))
    if not found.settled:
        raise DataError(
            f"A logistic regression on {features} features of {len(feature)} patients did not settle; check the "
            "features with `make qc`."
        )
    departure, bias = posterior.unfolded(found.point)
    return PriorLogistic(centre + departure, bias)
