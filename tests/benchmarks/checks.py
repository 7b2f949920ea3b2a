"""Before anything is timed: every chain does its work rightly, and how far the default is from exact."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from datamodules.augmentation import AugmentationConfig, AugmentationParameters, VolumeAugmentation
from datamodules.augmentation.parameters import Mode
from datamodules.errors import DataError
from datamodules.volumes.contract import PreprocessingContract
from tests.benchmarks.chains import ALL_AXES, DEFAULT, monai_batch, monai_transform
from tests.benchmarks.stored_forms import Material, phantom
from tests.benchmarks.torchio_reference import torchio_image, torchio_reference, torchio_tensor

BATCH = 4
MODES: tuple[Mode, ...] = ("separable", "exact")


def check_chains(material: Material) -> dict[str, float]:
    """Largest differences from what each chain should give.

    Raises:
        DataError: if one is wrong, since its time would mean nothing.
    """
    contract, volumes = material.contract, material.open()
    stored = torch.stack([torch.from_numpy(volumes.read(position).copy()) for position in range(BATCH)])[:, None]
    written = torch.stack([torch.from_numpy(phantom(contract, position)) for position in range(BATCH)])[:, None]
    found = {"shard against what was written": _largest(stored - written)}
    augmentation = VolumeAugmentation(contract, DEFAULT)
    identity = AugmentationParameters.identity(BATCH)
    for mode in MODES:
        plain = augmentation.transform(stored, identity, mode)
        found[f"{mode}, nothing varied, against the centre crop"] = _largest(plain - augmentation.evaluate(stored))
    neutral = AugmentationConfig(contract.grid, False, (0, 0, 0), (0, 0, 0), 0, 0, 0, 0, 0, (1, 1), 0)
    windowed = torch.from_numpy(np.load(material.array_path(0)))[None]
    found["MONAI, nothing varied, against its input"] = _largest(monai_transform(neutral)(windowed) - windowed)
    found["ours exact against torchio, share of voxels more than 0.001 apart"] = _share_apart(stored, contract)
    arrays = torch.stack([torch.from_numpy(np.load(material.array_path(position)))[None] for position in range(BATCH)])
    exact = VolumeAugmentation(contract, ALL_AXES)
    drawn = exact.draw(torch.arange(BATCH))
    apart = (exact.transform(stored, drawn) - monai_batch(arrays, drawn, contract)).abs() > 0.02
    found["ours exact against MONAI's batch, share of voxels more than 0.02 apart"] = float(apart.float().mean())
    limits = {name: 0.05 if "share" in name else 1e-4 for name in found}
    wrong = [f"{name}: {value:.4g}, allowed {limits[name]}" for name, value in found.items() if value > limits[name]]
    if wrong:
        raise DataError(f"The benchmark was not run, since its chains are not equal: {'; '.join(wrong)}.")
    return found


def _largest(difference: torch.Tensor) -> float:
    return float(difference.abs().max())


def _share_apart(volumes: torch.Tensor, contract: PreprocessingContract) -> float:
    """The two treat the half voxel beyond the faces in their own ways; anything else is an error."""
    augmentation = VolumeAugmentation(contract, ALL_AXES)
    parameters = augmentation.draw(torch.arange(len(volumes)))
    ours = augmentation.transform(volumes, parameters)[:, 0]
    theirs = [
        torchio_tensor(
            torchio_reference(parameters, contract, ALL_AXES.crop, sample)(torchio_image(volume[0], contract))
        )
        for sample, volume in enumerate(volumes)
    ]
    return float(((ours - torch.stack(theirs)).abs() > 1e-3).float().mean())


def error_of_default(contract: PreprocessingContract, samples: int = 8) -> dict[str, Any]:
    """How far the default's resampling is from the exact one with the same maps, inside the volume, in HU.

    Returns:
        For soft tissue that varies over 30 mm and for the same with noise of 20 HU: mean and largest difference; and
        the standard deviation that is left of the noise by either way (an interpolation smooths, exact or not).
    """
    wide = replace(contract, window_hu=(-2000.0, 2000.0))  # wide enough that the window hides nothing
    config = replace(DEFAULT, intensity_scale=0, intensity_shift=0, gamma_probability=0)
    augmentation = VolumeAugmentation(wide, config)
    parameters = augmentation.draw(torch.arange(samples))
    generator = torch.Generator().manual_seed(0)
    knots = [round(extent / 30) + 1 for extent in contract.extent_mm]
    tissue = functional.interpolate(
        50 + 80 * torch.randn(samples, 1, *knots, generator=generator),
        size=contract.grid,
        mode="trilinear",
        align_corners=True,
    )
    noise = 20 * torch.randn(tissue.shape, generator=generator)
    block = torch.full_like(tissue, -2000)
    block[:, :, 2:-2, 2:-2, 2:-2] = 2000
    inside = augmentation.transform(block, parameters, "exact") == 1

    def resampled(volumes: torch.Tensor, mode: Mode) -> torch.Tensor:
        return 4000 * augmentation.transform(volumes, parameters, mode)[inside]

    result: dict[str, Any] = {"samples": samples, "share_inside": float(inside.float().mean())}
    for name, volumes in (("smooth tissue", tissue), ("tissue with noise", tissue + noise)):
        error = (resampled(volumes, "separable") - resampled(volumes, "exact")).abs()
        result[name] = {"mean_hu": float(error.mean()), "largest_hu": float(error.max())}
    for mode in MODES:
        result[f"noise of 20 HU after {mode}, HU"] = float(resampled(noise, mode).std())
    return result
