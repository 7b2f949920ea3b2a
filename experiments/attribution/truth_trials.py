"""Whether a map is true: deletion and insertion, the pointing game, randomised weights, and erasing what is known.

A map that looks right need not show what a network does: one that survives randomised weights shows the image (Adebayo
et al., NeurIPS 2018). Every trial is held against a blob in the centre of the region, which knows nothing of the image
and is right as often as lesions lie there.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

from experiments.attribution.kidney_views import KidneyViews, evidence_shown
from experiments.attribution.network_questions import Asked

SHARES = (0.001, 0.002, 0.005, 0.01, 0.03, 0.1, 0.3)
"""Shares of the voxels that are taken away or given, the first of the map first; a lesion of 3 cm has 0.005."""
_BLOB = 0.25  # standard deviation, in halves of the region


class SurenessCurves(NamedTuple):
    """How sure the answer stays; float64 [F] of `SHARES`, each the logistic of its evidence.

    deletion: Where the map's first voxels gave way to the fill.
    insertion: Where these alone stand before the fill.
    whole: Of the whole image.
    blank: Of the fill alone.
    """

    deletion: np.ndarray
    insertion: np.ndarray
    whole: float
    blank: float

    @property
    def lost(self) -> float:
        """Mean fall of sureness by deletion; larger where the map names what matters."""
        return float((self.whole - self.deletion).mean())

    @property
    def won(self) -> float:
        """Mean rise of sureness by insertion."""
        return float((self.insertion - self.blank).mean())


def centred_blob(size: tuple[int, int, int]) -> torch.Tensor:
    """The floor: a Gaussian in the centre of a region, float32 [D, H, W]."""
    axes = [torch.linspace(-1, 1, length) for length in size]
    square = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(dim=0)
    return torch.exp(-square / (2 * _BLOB**2))


def pointing(values: torch.Tensor, lesion: torch.Tensor) -> float:
    """Whether a map's largest value lies in a lesion, both [D, H, W]; of ties their share (Zhang et al., IJCV 2018)."""
    return float(lesion[values == values.max()].double().mean())


def curves(encoder: nn.Module, views: KidneyViews, asked: Asked, values: torch.Tensor) -> list[SurenessCurves]:
    """Deletion and insertion by the order of a map (Petsiuk et al., RISE, BMVC 2018).

    Args:
        encoder: In evaluation mode.
        views: The kidney.
        asked: What is followed.
        values: float [D, H, W], the map.

    Returns:
        The curves of each of `asked`.
    """
    order, voxels = values.flatten().argsort(descending=True, stable=True), values.numel()
    kept = torch.ones(2 * len(SHARES) + 2, voxels)
    kept[len(SHARES) : 2 * len(SHARES)], kept[-1] = 0, 0
    for number, share in enumerate(SHARES):
        first = order[: max(1, round(share * voxels))]
        kept[number, first], kept[len(SHARES) + number, first] = 0, 1
    return [
        SurenessCurves(sure[: len(SHARES)], sure[len(SHARES) : -2], float(sure[-2]), float(sure[-1]))
        for sure in _sureness(encoder, views, asked, kept.view(-1, *values.shape))
    ]


def erased(
    encoder: nn.Module, views: KidneyViews, asked: Asked, parts: dict[str, torch.Tensor]
) -> list[dict[str, float]]:
    """How much the sureness of each answer falls when parts, bool [D, H, W] by name, give way to the fill."""
    kept = torch.stack([torch.zeros_like(next(iter(parts.values()))), *parts.values()]).logical_not().float()
    return [
        {name: float(sure[0] - fallen) for name, fallen in zip(parts, sure[1:], strict=True)}
        for sure in _sureness(encoder, views, asked, kept)
    ]


LESION, PARENCHYMA, OPPOSITE = "lesion", "as much parenchyma", "the other side"


def parts_to_erase(lesion: torch.Tensor, organ: torch.Tensor) -> dict[str, torch.Tensor] | None:
    """The lesion, as many voxels of parenchyma far from it in one piece, and its image across the organ's centre.

    Args:
        lesion: bool [D, H, W].
        organ: bool [D, H, W], kidney and lesions.

    Returns:
        bool [D, H, W] by name; None where the organ has no such parenchyma.
    """
    healthy = (organ & ~lesion).nonzero().double()
    count = int(lesion.sum())
    if len(healthy) < count or count == 0:
        return None
    centre = lesion.nonzero().double().mean(dim=0)
    seed = healthy[(healthy - centre).norm(dim=1).argmax()]
    nearest = healthy[(healthy - seed).norm(dim=1).argsort(stable=True)[:count]].long()
    parenchyma = torch.zeros_like(lesion)
    parenchyma[tuple(nearest.T)] = True
    middle = organ.nonzero().double().mean(dim=0)
    mirrored = (2 * middle - lesion.nonzero().double()).round().long()
    inside = ((mirrored >= 0) & (mirrored < torch.tensor(lesion.shape))).all(dim=1)
    opposite = torch.zeros_like(lesion)
    opposite[tuple(mirrored[inside].T)] = True
    return {LESION: lesion, PARENCHYMA: parenchyma, OPPOSITE: opposite & ~lesion}


def alike(first: torch.Tensor, second: torch.Tensor) -> float:
    """Spearman's correlation of two maps, in [-1, 1]; 0 where one of them is constant."""
    if first.min() == first.max() or second.min() == second.max():
        return 0.0
    return float(spearmanr(first.flatten().numpy(), second.flatten().numpy()).statistic)


def randomised(encoder: nn.Module, seed: int = 0) -> nn.Module:
    """The same network with new random weights in every layer, in evaluation mode."""
    network = copy.deepcopy(encoder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    return network.eval()


def _sureness(encoder: nn.Module, views: KidneyViews, asked: Asked, kept: torch.Tensor) -> np.ndarray:
    """float64 [Q, N], as of `evidence_shown`."""
    return evidence_shown(encoder, views, asked, kept).sigmoid().numpy()
