"""Maps of what an answer rests on: by gradients, by occlusion, and by the tokens of regions.

Gradients are MONAI's (SmoothGrad, Smilkov et al., 2017). Occlusion (Zeiler and Fergus, ECCV 2014) is written here: one
round of blocks answers all questions at once, which takes as long as one question does, and MONAI 1.6 puts but one
number in a block's place (with a function it raises). Of an encoder of regions the contributions of its readings are
integrated gradients (Sundararajan et al., ICML 2017) from the mean kidney of its training, summed by region and given
to the region's voxels by their shares; with those that belong to no region they add up to what the answer differs from
that of the mean kidney.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import torch
from monai.visualize import SmoothGrad
from torch import nn

from experiments.attribution.kidney_views import KidneyViews, evidence_shown
from experiments.attribution.network_questions import Asked, NetworkQuestion
from lightning_modules.networks.image.region_readings import owners
from lightning_modules.networks.image.regions import REGIONS as NAMES
from lightning_modules.networks.image.regions import RegionEncoder, painted_regions

GRADIENT, OCCLUSION, REGIONS = "gradient", "occlusion", "regions"
METHODS = (GRADIENT, OCCLUSION, REGIONS)
WINDOW_MM = 28.0
"""Edge of the block that is occluded, about the size of a lesion of 2 to 3 cm."""
STRIDE_MM = 24.0
"""From one block to the next."""
NOISE, NOISY = 0.05, 8
"""Standard deviation of SmoothGrad's noise as a share of the image's range, and how many noisy images it takes."""
STEPS = 32
"""Steps of integrated gradients."""
_AT_ONCE = 16


def available(encoder: nn.Module) -> tuple[str, ...]:
    """The methods that an encoder allows."""
    return METHODS if isinstance(encoder, RegionEncoder) else METHODS[:2]


def maps_of(
    encoder: nn.Module, views: KidneyViews, asked: Asked, spacing_mm: tuple[float, float, float], method: str
) -> list[torch.Tensor]:
    """Maps of the evidence of answers.

    Args:
        encoder: In evaluation mode.
        views: The kidney.
        asked: What is mapped.
        spacing_mm: Distance of voxels D x H x W.
        method: One of `available`.

    Returns:
        One float32 [D, H, W] for each of `asked`: above 0 where a voxel speaks for the answer. Gradients have no sign.
    """
    return _MAPS[method](encoder, views, asked, spacing_mm)


class _Evidence(nn.Module):
    """Evidence [N, Q] of images whose views and channels lie side by side, [N, V C, D, H, W]."""

    def __init__(self, encoder: nn.Module, views: KidneyViews, asked: Asked) -> None:
        super().__init__()
        self.encoder, self.asked, self.views, self.there = encoder, asked, views, views.there()
        present = views.image[self.there.expand_as(views.image)]
        self.lowest, self.highest = float(present.min()), float(present.max())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        split = image.unflatten(1, self.views.image.shape[:2])
        # Which phases there are is told by values: noise may make none of an absent one, nor take one away.
        split = torch.where(self.there, split.clamp(self.lowest, self.highest), self.views.image)
        feature = self.encoder(split.flatten(0, 1)).unflatten(0, split.shape[:2])
        return torch.stack([question.evidence(feature, answer).float() for question, answer in self.asked], dim=1)


def _gradient(
    encoder: nn.Module, views: KidneyViews, asked: Asked, spacing_mm: tuple[float, float, float]
) -> list[torch.Tensor]:
    model, flat = _Evidence(encoder, views, asked).eval(), views.image.flatten(0, 1)[None]
    found = []
    for number in range(len(asked)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            slope = SmoothGrad(model, NOISE, NOISY, magnitude=True, verbose=False)(flat.clone(), number)
        found.append(slope[0].sum(dim=0).detach())
    encoder.zero_grad(set_to_none=True)
    return found


def _occlusion(
    encoder: nn.Module, views: KidneyViews, asked: Asked, spacing_mm: tuple[float, float, float]
) -> list[torch.Tensor]:
    size = views.image.shape[2:]
    axes = [_blocks(length, WINDOW_MM / step, STRIDE_MM / step) for length, step in zip(size, spacing_mm, strict=True)]
    blocks = list(itertools.product(*axes))
    whole = evidence_shown(encoder, views, asked, torch.ones(1, *size))
    total, count = torch.zeros(len(asked), *size), torch.zeros(size)
    for start in range(0, len(blocks), _AT_ONCE):
        chosen = blocks[start : start + _AT_ONCE]
        kept = torch.ones(len(chosen), *size)
        for number, block in enumerate(chosen):
            kept[number][block] = 0
        drops = whole - evidence_shown(encoder, views, asked, kept)
        for drop, block in zip(drops.T, chosen, strict=True):
            for own, fallen in zip(total, drop, strict=True):
                own[block] += fallen
            count[block] += 1
    return list(total / count)


def _blocks(length: int, window: float, stride: float) -> list[slice]:
    """Blocks along an axis that leave no voxel out."""
    wide = max(1, min(length, round(window)))
    starts = {*range(0, length - wide, min(wide, max(1, int(stride)))), length - wide}
    return [slice(start, start + wide) for start in sorted(starts)]


def _regions(
    encoder: nn.Module, views: KidneyViews, asked: Asked, spacing_mm: tuple[float, float, float]
) -> list[torch.Tensor]:
    if not isinstance(encoder, RegionEncoder):
        raise TypeError(f"{type(encoder).__name__} has no tokens of regions.")
    with torch.no_grad():
        seen = encoder.see(views.image)
        share = painted_regions(seen.anatomy)
    volume = share.flatten(2).sum(dim=2).clamp_min(1.0)
    found = []
    for question, answer in asked:
        given = contributions(encoder, seen.readings, question, answer)[:, :-1]
        found.append(((given / volume)[:, :, None, None, None] * share).sum(dim=(0, 1)))
    return found


def contributions(
    encoder: RegionEncoder, readings: torch.Tensor, question: NetworkQuestion, answer: int
) -> torch.Tensor:
    """What every region contributes to the evidence of an answer, beyond that of the mean training kidney.

    Args:
        encoder: The encoder.
        readings: float [V, K] of the views of one kidney, as of `Seen`.
        question: The question.
        answer: The answer.

    Returns:
        float32 [V, R + 1]; the last column is of what belongs to no region. All add up to the difference of evidence.
    """
    owner, mean = owners(encoder), encoder.mean_readings()
    away = readings.detach() - mean
    total = torch.zeros_like(away)
    for step in range(STEPS):
        at = (mean + away * ((step + 0.5) / STEPS)).requires_grad_()
        evidence = question.evidence(encoder.described(at)[None], answer)
        total += torch.autograd.grad(evidence.sum(), at)[0] / STEPS
    return torch.zeros(len(away), len(NAMES) + 1).index_add_(1, owner, (total * away).float())


_MAPS: Mapping[str, Callable[..., list[torch.Tensor]]] = {
    GRADIENT: _gradient,
    OCCLUSION: _occlusion,
    REGIONS: _regions,
}
