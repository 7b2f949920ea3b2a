"""From the risks of a Cox model to probabilities of survival."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class BaselineHazard:
    r"""Breslow's estimate of the hazard at a log-risk of 0 (Breslow, discussion of Cox, J R Stat Soc B 1972).

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
        risk, time, happened = log_risk.double().cpu(), time_months.double().cpu(), event.bool().cpu()
        self.cuts = [float(cut) for cut in cuts]
        # Risks about 0, whose exponentials neither overflow nor vanish; the curves stay as they are.
        self.level = float(risk.mean())
        times, place = time.sort()
        at_risk = (risk - self.level).exp()[place].flip(0).cumsum(0).flip(0)
        # Of patients with equal times the first in order has all of them at risk.
        steps = happened[place].double() / at_risk[torch.searchsorted(times, times)]
        rising = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
        self.cumulative = rising[torch.searchsorted(times, torch.tensor(self.cuts, dtype=times.dtype), right=True)]

    def survival(self, log_risk: torch.Tensor) -> torch.Tensor:
        """Probability of surviving each cut point, float64 [N, T] on the CPU.

        Args:
            log_risk: float [N].
        """
        relative = (log_risk.double().cpu() - self.level).exp()
        return torch.exp(-relative[:, None] * self.cumulative)
