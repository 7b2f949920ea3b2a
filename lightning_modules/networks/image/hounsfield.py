"""What a radiologist reads off a region of interest: its Hounsfield units, where it lies and how far it reaches."""

from __future__ import annotations

import torch

QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
STATISTICS = (
    "mean",
    "sd",
    "skewness",
    "kurtosis",
    *(f"p{round(100 * share)}" for share in QUANTILES),
    "gradient",
    "volume",
)
"""What is measured in a region, in order."""
GEOMETRY = ("d", "h", "w", "spread_d", "spread_h", "spread_w")
"""Where a region lies, in order."""
_BINS = 100
_SD_FLOOR_HU = 5.0
_FAINT_VOXELS = 20.0


@torch.no_grad()
def region_statistics(hu: torch.Tensor, weight: torch.Tensor, range_hu: tuple[float, float]) -> torch.Tensor:
    """First-order statistics of the HU in weighted regions, after IBSI (Zwanenburg et al., Radiology 2020).

    Quantiles are read from a histogram of 100 bins. No gradient is kept: where the regions lie is learned from masks.

    Args:
        hu: float [B, 1, D, H, W] in HU.
        weight: float [B, R, D, H, W], share of each voxel in each region, in [0, 1].
        range_hu: Values outside are clipped.

    Returns:
        float32 [B, R, 13] in the order of `STATISTICS`. HU in hundreds; the standard deviation in fifties; skewness and
        excess kurtosis as they are; the mean difference of neighbours in thirties of HU; the volume as the logarithm of
        one plus voxels, an eighth of it. A region fades to 0 as it shrinks to nothing.
    """
    low, high = range_hu
    value = hu.float().clamp(low, high)
    flat, share = value.flatten(1), weight.float().flatten(2)
    total = share.sum(dim=2)
    norm = total.clamp_min(1e-3)
    # Moments about the middle of the range, in half ranges: one matrix product, and no digits lost.
    middle, half = (low + high) / 2, (high - low) / 2
    first = (flat - middle) / half
    second = first * first
    powers = torch.stack([first, second, second * first, second * second], dim=2)
    one, two, three, four = (share @ powers / norm[..., None]).unbind(dim=2)
    mean = middle + half * one
    variance = (two - one**2).clamp_min(0)
    sd = (variance + (_SD_FLOOR_HU / half) ** 2).sqrt()
    skewness = (three - 3 * one * two + 2 * one**3) / sd**3
    kurtosis = (four - 4 * one * three + 6 * one**2 * two - 3 * one**4) / sd**4 - 3
    quantiles = _quantiles(flat[:, None], share, norm, range_hu)
    gradient = (_neighbour_difference(value).flatten(1)[:, None] * share).sum(dim=2) / norm
    measured = [
        mean / 100,
        sd * half / 50,
        skewness,
        kurtosis,
        *(quantile / 100 for quantile in quantiles),
        gradient / 30,
    ]
    present = total / (total + _FAINT_VOXELS)
    return torch.stack([*(column * present for column in measured), torch.log1p(total) / 8], dim=2)


@torch.no_grad()
def region_geometry(weight: torch.Tensor) -> torch.Tensor:
    """Where weighted regions lie in the box, and how far they reach.

    Args:
        weight: float [B, R, D, H, W], share of each voxel in each region, in [0, 1].

    Returns:
        float32 [B, R, 6] in the order of `GEOMETRY`: the centre of mass, from -1 to 1 along every axis of the box, and
        twice the standard deviation about it. A region fades to 0 as it shrinks to nothing.
    """
    share = weight.float().flatten(2)
    total = share.sum(dim=2, keepdim=True)
    axes = [torch.linspace(-1, 1, size, device=weight.device) for size in weight.shape[2:]]
    place = torch.stack([grid.flatten() for grid in torch.meshgrid(*axes, indexing="ij")], dim=1)
    moments = share @ torch.cat([place, place**2], dim=1) / total.clamp_min(1e-3)
    centre, square = moments.chunk(2, dim=2)
    spread = 2 * (square - centre**2).clamp_min(0).sqrt()
    return torch.cat([centre, spread], dim=2) * (total / (total + _FAINT_VOXELS))


def _quantiles(
    flat: torch.Tensor, share: torch.Tensor, total: torch.Tensor, range_hu: tuple[float, float]
) -> list[torch.Tensor]:
    low, high = range_hu
    bins = ((flat - low) * (_BINS / (high - low))).long().clamp_(0, _BINS - 1).expand(-1, share.shape[1], -1)
    histogram = share.new_zeros(*share.shape[:2], _BINS).scatter_add_(2, bins, share)
    reached = histogram.cumsum(dim=2) / total[..., None]
    step = (high - low) / _BINS
    return [low + step * ((reached < level).sum(dim=2).clamp_max(_BINS - 1) + 0.5) for level in QUANTILES]


def _neighbour_difference(value: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference to the next voxel along D, H and W, [B, 1, D, H, W]; 0 at the last one."""
    total = torch.zeros_like(value)
    for axis in (2, 3, 4):
        size = value.shape[axis] - 1
        total.narrow(axis, 0, size).add_((value.narrow(axis, 1, size) - value.narrow(axis, 0, size)).abs())
    return total / 3
