"""What a region of interest looks like without any network: Hounsfield units, noise, sharpness, the scan's edge."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_dilation

from datamodules.volumes.contract import PreprocessingContract

_CENTRE_MM = 30.0
_SOFT_HU = (-50.0, 300.0)
_RANGE_HU = (-1100.0, 3100.0)
_TISSUES_HU = {
    "air": (-1100.0, -500.0),
    "fat": (-150.0, -30.0),
    "soft tissue": (-30.0, 300.0),
    "dense": (300.0, 3100.0),
}
_CENTRE_PERCENTILES, _PERCENTILES = (5, 25, 50, 75, 95), (5, 25, 50, 75, 95)

INTENSITIES = (
    *(f"{percentile}th percentile of HU in the middle" for percentile in _CENTRE_PERCENTILES),
    *(f"{percentile}th percentile of HU" for percentile in _PERCENTILES),
    *(f"share of {name}" for name in _TISSUES_HU),
)
"""Measures of Hounsfield units, in order; shares are square roots, so that small ones count."""
NOISE = (
    *(f"difference of neighbours along {axis}" for axis in "DHW"),
    *(f"roughness along {axis}" for axis in "DHW"),
    "difference along D against the plane",
    "roughness along D against the plane",
)
"""Measures of noise and sharpness in soft tissue, in order: logarithms of HU, or of ratios."""
MEASURES = (*INTENSITIES, *NOISE)
RATIOS = NOISE[6:]
_SHARES = INTENSITIES[len(_CENTRE_PERCENTILES) + len(_PERCENTILES) :]
_OFFSET_HU = 0.5
_METAL_HU = 2500


def outside(image: np.ndarray, contract: PreprocessingContract) -> np.ndarray:
    """Which voxels lie outside the scan, bool [D, H, W]: outer planes that hold the padding and nothing else.

    Args:
        image: int16 [D, H, W] in HU, as `crop_roi` cuts it.
        contract: Its contract.
    """
    padded = image == contract.pad_hu
    beyond = np.zeros(image.shape, dtype=bool)
    for axis in range(3):
        whole = padded.all(axis=tuple(other for other in range(3) if other != axis))
        first = int(np.argmin(whole)) if not whole.all() else len(whole)
        last = int(np.argmin(whole[::-1])) if not whole.all() else 0
        planes = np.moveaxis(beyond, axis, 0)
        planes[:first] = True
        planes[len(whole) - last :] = True
    return beyond


def reaches(beyond: np.ndarray, labels: np.ndarray | None, contract: PreprocessingContract) -> bool:
    """Whether the edge of the scan reaches the kidney, by its mask with the voxel around it; else its middle.

    Args:
        beyond: bool [D, H, W], as of `outside`.
        labels: uint8 [D, H, W], 0 where there is no kidney; None where only a box is known.
        contract: Contract of the region.
    """
    kidney = _ball(contract) if labels is None else binary_dilation(labels > 0)
    return bool((beyond & kidney).any())


def dense_ml(image: np.ndarray, contract: PreprocessingContract) -> float:
    """Volume denser than any bone, in ml."""
    return float((image > _METAL_HU).sum() * np.prod(contract.spacing_mm) / 1000)


def in_words(name: str, value: float) -> str:
    """A measurement with its unit."""
    if name in _SHARES:
        return f"{value**2:.1%}"
    if name in RATIOS:
        return f"{np.exp(value):.2f}"
    return f"{np.exp(value) - _OFFSET_HU:.1f} HU" if name in NOISE else f"{value:.0f} HU"


def region_measures(image: np.ndarray, contract: PreprocessingContract) -> np.ndarray:
    """The measures of one series of a kidney, float64 [M] in the order of `MEASURES`.

    Args:
        image: int16 [D, H, W] in HU.
        contract: Its contract.
    """
    inside = ~outside(image, contract)
    value = np.clip(image.astype(np.float64), *_RANGE_HU)
    middle = _ball(contract) & inside
    seen = value[inside] if inside.any() else value.ravel()
    central = value[middle] if middle.any() else seen
    shares = [np.sqrt(np.mean((seen >= low) & (seen < high))) for low, high in _TISSUES_HU.values()]
    return np.array(
        [
            *np.percentile(central, _CENTRE_PERCENTILES),
            *np.percentile(seen, _PERCENTILES),
            *shares,
            *_noise(value, inside),
        ]
    )


def _ball(contract: PreprocessingContract) -> np.ndarray:
    axes = [
        (np.arange(count) + 0.5 - count / 2) * spacing
        for count, spacing in zip(contract.grid, contract.spacing_mm, strict=True)
    ]
    d, h, w = np.meshgrid(*axes, indexing="ij", sparse=True)
    ball: np.ndarray = d**2 + h**2 + w**2 <= _CENTRE_MM**2
    return ball


def _noise(value: np.ndarray, inside: np.ndarray) -> list[float]:
    """Median differences and second differences of neighbours, both in soft tissue, where edges do not decide."""
    soft = inside & (value >= _SOFT_HU[0]) & (value <= _SOFT_HU[1])
    first, second = [], []
    for axis in range(3):
        along, kept = np.moveaxis(value, axis, 0), np.moveaxis(soft, axis, 0)
        step, both = np.diff(along, axis=0), kept[1:] & kept[:-1]
        first.append(_middle(np.abs(step)[both]))
        second.append(_middle(np.abs(np.diff(step, axis=0))[both[1:] & both[:-1]]))
    ratios = [part[0] - (part[1] + part[2]) / 2 for part in (first, second)]
    return [*first, *second, *ratios]


def _middle(differences: np.ndarray) -> float:
    """Logarithm of the mean of the lower three quarters: the median of whole numbers has too few values."""
    if not len(differences):
        return float(np.log(_OFFSET_HU))
    kept = np.sort(differences)[: max(1, 3 * len(differences) // 4)]
    return float(np.log(kept.mean() + _OFFSET_HU))
