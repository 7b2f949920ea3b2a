"""Exact resampling against torchio with the same parameters, and separable resampling against exact."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch.nn import functional

from datamodules.augmentation import AugmentationConfig, AugmentationParameters, VolumeAugmentation
from datamodules.volumes.contract import PreprocessingContract
from tests.benchmarks.torchio_reference import torchio_image, torchio_reference, torchio_tensor

GEOMETRIES = {
    "even margins": (PreprocessingContract(grid=(40, 64, 70)), (32, 58, 60)),
    "odd margins": (PreprocessingContract(grid=(40, 64, 70)), (31, 61, 63)),
    "no margins": (PreprocessingContract(grid=(20, 35, 35)), (20, 35, 35)),
}


@cache
def smooth(contract: PreprocessingContract, batch: int) -> torch.Tensor:
    """int16 volumes of soft tissue that varies over 30 mm."""
    knots = [round(extent / 30) + 1 for extent in contract.extent_mm]
    field = torch.randn(batch, 1, *knots, generator=torch.Generator().manual_seed(5))
    field = functional.interpolate(field, size=contract.grid, mode="trilinear", align_corners=True)
    return (50 + 80 * field).round().to(torch.int16)


def inside(augmentation: VolumeAugmentation, parameters: AugmentationParameters) -> torch.Tensor:
    """Voxels whose neighbours all lie within the source, by either way of resampling: one or more from its faces."""
    block = torch.full((len(parameters), 1, *augmentation.contract.grid), -1000, dtype=torch.int16)
    block[:, :, 2:-2, 2:-2, 2:-2] = 300
    neutral = AugmentationParameters.identity(len(parameters))
    spatial = replace(
        parameters, **{name: getattr(neutral, name) for name in ("intensity_scale", "intensity_shift", "gamma")}
    )
    return augmentation.transform(block, spatial, "exact") == 1


def augmentation_of(geometry: str, pitch: float = 10.0, roll: float = 0.0) -> VolumeAugmentation:
    contract, crop = GEOMETRIES[geometry]
    config = AugmentationConfig(
        crop=crop,
        rotation_degrees=(10.0, roll, pitch),
        translation_mm=(5.0, 10.0, 10.0),
        scale_through_plane=0.1,
        flip_probability=0.5,
        mode="exact",
    )
    return VolumeAugmentation(contract, config)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_exact_equals_torchio(geometry: str) -> None:
    augmentation = augmentation_of(geometry, roll=10.0)
    contract, crop = augmentation.contract, augmentation.config.crop
    volumes, parameters = smooth(contract, 6), augmentation.draw(torch.arange(6))
    assert 0 < parameters.flip.sum() < 6
    ours = augmentation.transform(volumes, parameters, "exact")[:, 0]
    theirs = torch.stack(
        [
            torchio_tensor(torchio_reference(parameters, contract, crop, sample)(torchio_image(volume[0], contract)))
            for sample, volume in enumerate(volumes)
        ]
    )
    # ITK repeats the outermost voxel for half a voxel more, where ours goes over to padding.
    interior = inside(augmentation, parameters)[:, 0]
    assert interior.float().mean() > 0.5
    assert (ours - theirs)[interior].abs().max() < 1e-4


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_separable_equals_exact_in_plane(geometry: str) -> None:
    """At the faces too: it is the same interpolation, its sums in another order."""
    augmentation = augmentation_of(geometry, pitch=0.0)
    parameters = augmentation.draw(torch.arange(6))
    generator = torch.Generator().manual_seed(0)
    volumes = torch.randint(-1000, 1000, (6, 1, *augmentation.contract.grid), generator=generator, dtype=torch.int16)
    exact, separable = (augmentation.transform(volumes, parameters, mode) for mode in ("exact", "separable"))
    assert (exact - separable).abs().max() < 2e-3


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_separable_is_close_to_exact_with_pitch(geometry: str) -> None:
    """The same matrix: on soft tissue they differ by the curvature that one more interpolation smooths away."""
    augmentation = augmentation_of(geometry)
    parameters = augmentation.draw(torch.arange(6))
    volumes = smooth(augmentation.contract, 6)
    exact, separable = (augmentation.transform(volumes, parameters, mode) for mode in ("exact", "separable"))
    interior = inside(augmentation, parameters)
    error = (exact - separable)[interior].abs()
    assert error.mean() < 0.001
    assert error.max() < 0.03
    linear = torch.arange(augmentation.contract.grid[1])[None, None, None, :, None].expand_as(volumes).to(torch.int16)
    exact, separable = (augmentation.transform(linear, parameters, mode) for mode in ("exact", "separable"))
    assert (exact - separable)[interior].abs().max() < 1e-5
