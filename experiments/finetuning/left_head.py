"""What a linear probe leaves for new patients: the head that its predictions came from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler

from datamodules.tasks import RoiDataModule
from experiments.statistics.risk_groups import risk_cuts
from lightning_modules.downstream.baseline_hazard import BaselineHazard
from lightning_modules.export.task_head import TaskHead

QUARTER_MONTHS, LONGEST_MONTHS = 3.0, 120.0
"""Step and end of the times at which a Cox model that is left for new patients knows its curve."""


class Linear(NamedTuple):
    """Weights [C, F] and biases [C] on standardised features; a Cox model has one row and no bias."""

    weight: np.ndarray
    bias: np.ndarray = np.zeros(1)


class Standard(NamedTuple):
    """How features are standardised: what is taken from them [F], and what the rest is divided by [F]."""

    mean: np.ndarray | float
    scale: np.ndarray | float

    @classmethod
    def of(cls, feature: np.ndarray) -> Standard:
        """By patients [N, F]; a feature in which they do not differ is not divided."""
        scaler = StandardScaler().fit(feature)
        return cls(scaler.mean_, scaler.scale_)

    def of_features(self, feature: np.ndarray) -> np.ndarray:
        """Features [N, F], standardised."""
        return np.asarray((feature - self.mean) / self.scale)


AS_IT_IS = Standard(0.0, 1.0)


def task_head(
    module: RoiDataModule,
    standard: Standard,
    feature: np.ndarray,
    outcome: np.ndarray,
    linear: Linear,
    encoder: str,
) -> TaskHead:
    """The head of a linear model on frozen features.

    Args:
        module: DataModule of the task.
        standard: How the features were standardised.
        feature: Standardised features of the training patients [N, F].
        outcome: Their classes [N], or `event` and `months` as fields.
        linear: The model.
        encoder: Hash of the encoder's weights.
    """
    survival = module.label.kind == "survival"
    mean, scale = (np.broadcast_to(value, feature.shape[1:]) for value in standard)
    arrays = {"mean": mean, "scale": scale, "weight": linear.weight, "bias": linear.bias}
    arrays |= _hazard(module, feature @ linear.weight[0], outcome) if survival else dict.fromkeys(_OF_RISK, np.zeros(0))
    return TaskHead(
        task=module.label.name,
        outcome=module.label.kind,
        classes=tuple(module.label.class_names),
        endpoint=module.label.endpoint,
        phases=module.phases,
        crop=module.augmentation.config.crop,
        patients=len(feature),
        events=(int(outcome["event"].sum()),) if survival else tuple(module.class_counts),
        encoder_sha256=encoder,
        **{name: torch.from_numpy(np.array(value, dtype=np.float64)) for name, value in arrays.items()},
    )


_OF_RISK = ("months", "hazard", "risk_cuts")


def _hazard(module: RoiDataModule, risk: np.ndarray, outcome: np.ndarray) -> dict[str, np.ndarray]:
    """Breslow's cumulative hazard at the task's cut points and every quarter as long as anybody was followed."""
    last = min(float(outcome["months"].max()), LONGEST_MONTHS)
    months = sorted({*map(float, module.outcome["cuts"]), *np.arange(0.0, last + 1e-9, QUARTER_MONTHS).tolist()})
    time, event = (torch.from_numpy(np.ascontiguousarray(outcome[name])) for name in ("months", "event"))
    found = BaselineHazard(torch.from_numpy(risk), time, event, months)
    # Where a penalty or ties leave most risks equal, there are no groups to speak of.
    parted = 2 * len(np.unique(risk)) > len(risk)
    return {
        "bias": np.array([-found.level]),
        "months": np.array(months),
        "hazard": found.cumulative.numpy(),
        "risk_cuts": risk_cuts(risk) if parted else np.zeros(0),
    }
