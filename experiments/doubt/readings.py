"""What is measured of one kidney of a scan, and how far that lies from the training scans."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from datamodules.augmentation import VolumeAugmentation
from datamodules.cohort.columns import PHASES
from datamodules.importers.one_scan import ScanKidney
from experiments.doubt.gaussians import Gaussians
from experiments.doubt.region_measures import INTENSITIES, region_measures
from experiments.encoders.scan_encoder import network_input

CHECKS = ("intensities", "noise", "features", "phase")
"""What is measured, in the order of the scores."""


@dataclass(frozen=True)
class Readings:
    """What is measured of one kidney.

    Args:
        phases: Index of the stated phase of every view, -1 where it is not known.
        measures: float64 [V, M], `MEASURES` of every view.
        features: float64 [N, F], of what the network is shown: every view, or all of them at once; several where a
            phase is not known, one for each that it may be.
    """

    phases: np.ndarray
    measures: np.ndarray
    features: np.ndarray

    @classmethod
    @torch.inference_mode()
    def of(cls, kidney: ScanKidney, encoder: nn.Module, augmentation: VolumeAugmentation) -> Readings:
        """Measure a kidney.

        Args:
            kidney: The kidney with its views.
            encoder: The network, in evaluation mode.
            augmentation: How regions become its input.
        """
        phases = np.array([-1 if view.phase is None else PHASES.index(view.phase) for view in kidney.views])
        measures = np.stack([region_measures(view.image, augmentation.contract) for view in kidney.views])
        place = next((parameter.device for parameter in encoder.parameters()), torch.device("cpu"))
        shown = network_input(kidney, augmentation, encoder)[0].to(place)
        return cls(phases, measures, encoder(shown).double().cpu().numpy())


@dataclass(frozen=True)
class Trained:
    """The measurements of the training scans.

    Args:
        intensities: `INTENSITIES` by contrast phase.
        noise: `NOISE` by contrast phase.
        features: The network's feature, one group.
    """

    intensities: Gaussians
    noise: Gaussians
    features: Gaussians

    @classmethod
    def of(cls, readings: list[Readings]) -> Trained:
        """Of the readings of training kidneys, whose phases are known."""
        split, measures = len(INTENSITIES), np.concatenate([one.measures for one in readings])
        phases, features = (np.concatenate([getattr(one, name) for one in readings]) for name in ("phases", "features"))
        known = phases >= 0
        return cls(
            Gaussians.fit(measures[known, :split], phases[known], len(PHASES)),
            Gaussians.fit(measures[known, split:], phases[known], len(PHASES)),
            Gaussians.fit(features, np.zeros(len(features), dtype=int), 1),
        )

    def scores(self, seen: Readings) -> np.ndarray:
        """The scores of one kidney, float64 [4] in the order of `CHECKS`; the largest over its views.

        Distances of Mahalanobis; of the phase the log-likelihood of the likeliest less that of the stated one. Where
        the phase is not known, or has no training scans, the nearest counts.
        """
        split = len(INTENSITIES)
        intensities = _nearest(self.intensities, seen.measures[:, :split], seen.phases)
        noise = _nearest(self.noise, seen.measures[:, split:], seen.phases)
        phase = [
            likelihood.max() - likelihood[stated] if stated >= 0 and self.intensities.known(stated) else 0.0
            for likelihood, stated in zip(self.phase_likelihood(seen.measures), seen.phases, strict=True)
        ]
        distance = np.sqrt(self.features.squares(seen.features)[:, 0])
        # Of what joins phases, one image for each that an unknown one may be was made: the nearest is the true one.
        alternatives = len(distance) > 1 and len(distance) != len(seen.phases)
        feature = distance.min() if alternatives else distance.max()
        return np.array([intensities.max(), noise.max(), feature, max(phase)])

    def phase_likelihood(self, measures: np.ndarray) -> np.ndarray:
        """Log-likelihood of every contrast phase by `MEASURES` of every view [V, M], float64 [V, P]."""
        return self.intensities.log_likelihood(measures[:, : len(INTENSITIES)])


def _nearest(gaussians: Gaussians, values: np.ndarray, phases: np.ndarray) -> np.ndarray:
    squares = gaussians.squares(values)
    stated = np.array([phase >= 0 and gaussians.known(phase) for phase in phases])
    own = squares[np.arange(len(values)), np.maximum(phases, 0)]
    return np.sqrt(np.where(stated, own, squares.min(axis=1)))
