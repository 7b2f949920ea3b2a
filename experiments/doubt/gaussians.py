"""How far measurements lie from those of the training scans: Gaussians by contrast phase, shrunk covariances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.covariance import LedoitWolf

FEWEST = 10
"""Scans of a group from which it has a mean of its own."""
_OWN_COVARIANCE = 3
"""Scans for each measurement from which a group has a covariance of its own; that of all groups together before."""
_RANGE = (5.0, 95.0)


@dataclass(frozen=True)
class Gaussians:
    """A Gaussian for each group of training scans, such as a contrast phase.

    Distances are those of Mahalanobis with the covariance of Ledoit and Wolf (J Multivariate Analysis 2004;88:365), as
    Lee et al. (NeurIPS 2018) use them to find inputs unlike the training data.

    Args:
        mean: float64 [G, M].
        precision: float64 [G, M, M].
        log_determinant: float64 [G], of the covariances.
        usual: float64 [G, 2, M], 5th and 95th percentile of each measurement, for sentences.
        count: int64 [G], scans of each group; a group of fewer than `FEWEST` has no Gaussian.
    """

    mean: np.ndarray
    precision: np.ndarray
    log_determinant: np.ndarray
    usual: np.ndarray
    count: np.ndarray

    @classmethod
    def fit(cls, values: np.ndarray, group: np.ndarray, groups: int) -> Gaussians:
        """Fit them.

        Args:
            values: float [N, M].
            group: int [N], group of each row.
            groups: Number of groups.
        """
        count = np.bincount(group, minlength=groups)
        known = np.flatnonzero(count >= FEWEST)
        width = values.shape[1]
        scale = values.std(axis=0)
        scale = np.where(scale > 0, scale, 1.0)
        mean, usual = np.zeros((groups, width)), np.zeros((groups, 2, width))
        precision, determinant = np.zeros((groups, width, width)), np.zeros(groups)
        if not len(known):
            return cls(mean, precision, determinant, usual, count)
        for number in known:
            own = values[group == number]
            mean[number], usual[number] = own.mean(axis=0), np.percentile(own, _RANGE, axis=0)
        kept = np.isin(group, known)
        residual = (values[kept] - mean[group[kept]]) / scale
        pooled = LedoitWolf(assume_centered=True).fit(residual).covariance_
        for number in known:
            own = residual[group[kept] == number]
            enough = len(own) >= _OWN_COVARIANCE * width
            covariance = LedoitWolf(assume_centered=True).fit(own).covariance_ if enough else pooled
            precision[number] = np.linalg.inv(covariance) / np.outer(scale, scale)
            determinant[number] = np.linalg.slogdet(covariance)[1] + 2 * np.log(scale).sum()
        return cls(mean, precision, determinant, usual, count)

    def known(self, group: int) -> bool:
        """Whether a group has a Gaussian."""
        return bool(self.count[group] >= FEWEST)

    def squares(self, values: np.ndarray) -> np.ndarray:
        """Squared distance float64 [N, G] of values [N, M] to every group; infinite where it has no Gaussian."""
        residual = values[:, None] - self.mean
        found = np.einsum("ngi,gij,ngj->ng", residual, self.precision, residual)
        return np.where(self.count >= FEWEST, found, np.inf)

    def log_likelihood(self, values: np.ndarray) -> np.ndarray:
        """Log-density float64 [N, G] without its constant; minus infinity where a group has no Gaussian."""
        likelihood: np.ndarray = -0.5 * (self.squares(values) + self.log_determinant)
        return likelihood

    def strangest(self, value: np.ndarray, group: int) -> int:
        """The measurement of one scan [M] that lies furthest outside of what is usual in a group."""
        low, high = self.usual[group]
        width = np.where(high > low, high - low, 1.0)
        return int(np.argmax(np.maximum(low - value, value - high) / width))

    def tensors(self, prefix: str) -> dict[str, np.ndarray]:
        """Its arrays by name."""
        return {f"{prefix}.{name}": getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, np.ndarray], prefix: str) -> Gaussians:
        """From what `tensors` gave."""
        return cls(**{name: np.asarray(tensors[f"{prefix}.{name}"]) for name in cls.__dataclass_fields__})
