"""Discrete-time survival losses of pycox (Kvamme and Borgan, 2021) on a time grid cut on training data."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from pycox.models.loss import DeepHitSingleLoss, nll_logistic_hazard
from pycox.models.utils import pad_col

from lightning_modules.core.errors import ModelError

Objective = Literal["cox", "logistic_hazard", "deephit"]


class DiscreteTime:
    """The time grid, and the losses and survival curves of models that predict on it.

    Args:
        cuts: Rising times in months, the first 0; linked from the DataModule.
        objective: `logistic_hazard` (Gensheimer and Narasimhan, PeerJ 2019) or `deephit` for a single risk (Lee et
            al., AAAI 2018).
        alpha: Share of the likelihood in DeepHit's loss; the rest is its ranking term.
        sigma: Scale of the ranking term.

    Raises:
        ModelError: if there are fewer than two cut points, or they do not rise.
    """

    def __init__(self, cuts: Sequence[float], objective: Objective, alpha: float = 0.2, sigma: float = 0.1) -> None:
        if len(cuts) < 2 or any(later <= earlier for earlier, later in pairwise(cuts)):
            raise ModelError(f"Time grid {list(cuts)} was found; expected two or more rising times in months.")
        self.cuts = torch.tensor(list(cuts), dtype=torch.float64)
        self.objective = objective
        self._deephit = DeepHitSingleLoss(alpha, sigma)

    @property
    def outputs(self) -> int:
        """Outputs of the network: one for each cut point, as pycox counts them."""
        return len(self.cuts)

    def index(self, time: torch.Tensor, event: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Times as positions on the grid: events move to the next cut point, censored times to the last one.

        The same as pycox's label transform; a time after the last cut point, which no training patient has, counts as
        censored there.

        Args:
            time: Months [N].
            event: bool [N].

        Returns:
            int64 [N] and bool [N].
        """
        cuts, time = self.cuts.to(time.device), time.double().contiguous()
        after = torch.searchsorted(cuts, time, right=False)
        beyond = after >= len(cuts)
        observed = event & ~beyond
        before = torch.searchsorted(cuts, time, right=True) - 1
        return torch.where(observed, after, before).clamp(0, len(cuts) - 1), observed

    def loss(self, phi: torch.Tensor, time: torch.Tensor, event: torch.Tensor) -> torch.Tensor:
        """Loss of a batch by pycox; 0 with a gradient of 0 where it is empty.

        Args:
            phi: float [N, outputs].
            time: Months [N].
            event: bool [N].
        """
        if not len(phi):
            return phi.sum()
        position, observed = self.index(time, event)
        if self.objective == "logistic_hazard":
            value: torch.Tensor = nll_logistic_hazard(phi.float(), position, observed.float())
            return value
        before = position[:, None] < position[None]
        tied = (position[:, None] == position[None]) & ~observed[None]
        rank = (observed[:, None] & (before | tied)).float()
        ranked: torch.Tensor = self._deephit(phi.float(), position, observed.float(), rank)
        return ranked

    def survival(self, phi: torch.Tensor) -> torch.Tensor:
        """Probability of surviving each cut point, float [N, outputs], falling."""
        if self.objective == "logistic_hazard":
            return (1 - phi.double().sigmoid()).cumprod(dim=1)
        return 1 - pad_col(phi.double()).softmax(dim=1).cumsum(dim=1)[:, :-1].clamp(max=1)

    def log_risk(self, phi: torch.Tensor) -> torch.Tensor:
        """One number per patient, higher where the event comes sooner: log of the restricted mean time lost [N].

        The time lost is the area above the survival curve up to the last cut point, by trapezia, as a share of it.
        """
        curve, cuts = self.survival(phi), self.cuts.to(phi.device)
        lost = 1 - torch.trapezoid(curve, cuts, dim=1) / (cuts[-1] - cuts[0])
        return torch.log(lost.clamp_min(1e-12))
