"""From the risks of a Cox model to probabilities of survival."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sksurv.linear_model.coxph import BreslowEstimator


class BaselineHazard:
    r"""Breslow's estimate of the hazard at a log-risk of 0, by scikit-survival.

    .. math:: S(t \mid r) = \exp(-H_0(t) e^r), \quad H_0(t) = \sum_{t_i \le t} d_i / \sum_{j: t_j \ge t_i} e^{r_j}

    The partial likelihood leaves it open, so that a Cox model alone ranks patients and says no probability.

    Args:
        log_risk: Of the training patients, by the weights whose predictions it serves [N].
        time_months: Time to event or censoring [N].
        event: bool [N].
        cuts: Times in months at which curves are given [T].
    """

    def __init__(
        self, log_risk: torch.Tensor, time_months: torch.Tensor, event: torch.Tensor, cuts: Sequence[float]
    ) -> None:
        risk, time, happened = (values.cpu().numpy() for values in (log_risk.double(), time_months.double(), event))
        self.cuts = list(cuts)
        # Risks about 0, whose exponentials neither overflow nor vanish; the curves stay as they are.
        self.level = float(risk.mean())
        fitted = BreslowEstimator().fit(risk - self.level, happened.astype(bool), time).cum_baseline_hazard_
        place = np.searchsorted(fitted.x, np.asarray(self.cuts), side="right")
        self.cumulative = torch.from_numpy(np.append(0.0, fitted.y)[place])

    def survival(self, log_risk: torch.Tensor) -> torch.Tensor:
        """Probability of surviving each cut point, float64 [N, T] on the CPU.

        Args:
            log_risk: float [N].
        """
        relative = (log_risk.double().cpu() - self.level).exp()
        return torch.exp(-relative[:, None] * self.cumulative)
