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
    Voxels outside all regions, most of them, are not touched.

    Args:
        hu: float [B, P, D, H, W] in HU, one channel a contrast phase.
        weight: float [B, R, D, H, W], share of each voxel in each region, in [0, 1].
        range_hu: Values outside are clipped.

    Returns:
        float32 [B, P, R, 13] in the order of `STATISTICS`. HU in hundreds; the standard deviation in fifties; skewness
        and excess kurtosis as they are; the mean difference of neighbours in thirties of HU; the volume as the
        logarithm of one plus voxels, an eighth of it. A region fades to 0 as it shrinks to nothing.
    """
    low, high = range_hu
    value = hu.float().clamp(low, high)
    difference = _neighbour_difference(value)
    share = weight.float().flatten(2)
    index, counted = _inside(share)
    share = share.gather(2, index[:, None].expand(-1, share.shape[1], -1)) * counted[:, None]
    picked = index[:, None].expand(-1, value.shape[1], -1)
    flat, rough = value.flatten(2).gather(2, picked), difference.flatten(2).gather(2, picked)
    total = share.sum(dim=2)
    norm = total.clamp_min(1e-3)
    # Moments about the middle of the range, in half ranges: one matrix product, and no digits lost.
    middle, half = (low + high) / 2, (high - low) / 2
    first = (flat - middle) / half
    second = first * first
    powers = torch.stack([first, second, second * first, second * second, rough], dim=3)
    one, two, three, four, gradient = (share[:, None] @ powers / norm[:, None, :, None]).unbind(dim=3)
    mean = middle + half * one
    variance = (two - one**2).clamp_min(0)
    sd = (variance + (_SD_FLOOR_HU / half) ** 2).sqrt()
    skewness = (three - 3 * one * two + 2 * one**3) / sd**3
    kurtosis = (four - 4 * one * three + 6 * one**2 * two - 3 * one**4) / sd**4 - 3
    measured = [
        mean / 100,
        sd * half / 50,
        skewness,
        kurtosis,
        *(quantile / 100 for quantile in _quantiles(flat, share, norm, range_hu)),
        gradient / 30,
    ]
    present = (total / (total + _FAINT_VOXELS))[:, None]
    volume = (torch.log1p(total) / 8)[:, None].expand_as(mean)
    return torch.stack([*(column * present for column in measured), volume], dim=3)


def _inside(share: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Voxels that lie in any region, int64 [B, N], and which columns are such, float [B, N].

    Samples with fewer than the most are filled up with voxel 0, which does not count.

    Args:
        share: float [B, R, voxels].
    """
    if torch.compiler.is_exporting():  # a graph knows no size that depends on the data; all voxels weigh the same
        every = torch.arange(share.shape[2], device=share.device).expand(share.shape[0], -1)
        return every, torch.ones_like(share[:, 0])
    there = (share > 0).any(dim=1)
    count = there.sum(dim=1)
    sample, voxel = there.nonzero().unbind(dim=1)
    place = torch.arange(len(sample), device=share.device) - (count.cumsum(dim=0) - count)[sample]
    index = voxel.new_zeros(len(share), int(count.max()))
    index[sample, place] = voxel
    return index, (torch.arange(index.shape[1], device=share.device) < count[:, None]).to(share.dtype)


@torch.no_grad()
def phase_summary(statistics: torch.Tensor, available: torch.Tensor) -> torch.Tensor:
    """What regions look like over the contrast phases that a visit has; the first phase is the one without contrast.

    Args:
        statistics: float [B, P, R, 13] as of `region_statistics`, by phase.
        available: bool [B, P], which phases there are; the others count for nothing.

    Returns:
        float32 [B, 37 R + P], region by region within each part: the mean of every statistic but the volume over the
        phases, its largest value over the phases with contrast, its mean over these less its value without contrast
        (0 where either is lacking), the volume, and which phases there are.
    """
    there = available[:, :, None, None].to(statistics.dtype)
    value, volume = statistics[..., :-1] * there, statistics[..., -1]
    enhanced, after = value[:, 1:], there[:, 1:]
    count = after.sum(dim=1)
    some = count > 0
    mean = value.sum(dim=1) / there.sum(dim=1).clamp_min(1)
    highest = enhanced.masked_fill(after == 0, -torch.inf).amax(dim=1).masked_fill(~some, 0.0)
    rise = (enhanced.sum(dim=1) / count.clamp_min(1) - value[:, 0]) * (some & (there[:, 0] > 0))
    largest = (volume * there[..., 0]).amax(dim=1)
    return torch.cat([part.flatten(1) for part in (mean, highest, rise, largest, there)], dim=1).float()


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
    """Quantiles [B, P, R] of values [B, P, N] under weights [B, R, N] of the sums [B, R]."""
    low, high = range_hu
    (samples, phases, voxels), regions = flat.shape, share.shape[1]
    bins = ((flat - low) * (_BINS / (high - low))).long().clamp_(0, _BINS - 1)
    histogram = share.new_zeros(samples, phases, regions, _BINS).scatter_add_(
        3,
        bins[:, :, None].expand(-1, -1, regions, -1),
        share[:, None].expand(-1, phases, -1, voxels).contiguous(),
    )
    reached = histogram.cumsum(dim=3) / total[:, None, :, None]
    step = (high - low) / _BINS
    return [low + step * ((reached < level).sum(dim=3).clamp_max(_BINS - 1) + 0.5) for level in QUANTILES]


def _neighbour_difference(value: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference to the next voxel along D, H and W, [B, P, D, H, W]; 0 at the last one."""
    total = torch.zeros_like(value)
    for axis in (2, 3, 4):
        size = value.shape[axis] - 1
        total.narrow(axis, 0, size).add_((value.narrow(axis, 1, size) - value.narrow(axis, 0, size)).abs())
    return total / 3
