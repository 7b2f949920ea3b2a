"""The chains from stored bytes to an augmented tensor, over the same ranges and to the same kind of output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import monai.transforms as mt
import numpy as np
import torch
from monai.networks.layers import AffineTransform

from datamodules.augmentation import AugmentationConfig, AugmentationParameters, VolumeAugmentation
from datamodules.augmentation.sampling_map import crop_center, sampling_map
from datamodules.volumes.contract import PreprocessingContract
from tests.benchmarks.stored_forms import Material
from tests.benchmarks.torchio_reference import torchio_image, torchio_reference, torchio_tensor

Chain = Callable[[Sequence[int]], torch.Tensor]
"""From the positions of some volumes to float32 [n, 1, *crop]."""

REFERENCE = "reference (MONAI)"
ALL_AXES = AugmentationConfig(rotation_degrees=(10.0, 10.0, 10.0), flip_probability=0.5, mode="exact")
DEFAULT = AugmentationConfig(flip_probability=0.5)


def monai_transform(config: AugmentationConfig = ALL_AXES, lazy: bool = False) -> mt.Compose:
    """The reference recipe (Tao et al., Nature Communications 2026) with MONAI's transforms.

    Args:
        config: Ranges.
        lazy: Whether crop, flip and motion are put off and done as one resampling.
    """
    radians = tuple(float(np.deg2rad(degrees)) for degrees in config.rotation_degrees)
    scale = config.scale_in_plane
    return mt.Compose(
        [
            mt.RandSpatialCrop(config.crop, random_size=False),
            mt.RandFlip(prob=config.flip_probability, spatial_axis=2),
            mt.RandAffine(
                prob=1.0,
                rotate_range=radians,
                translate_range=tuple(round(mm) for mm in config.translation_mm),  # 1 mm voxels in plane
                scale_range=(0.0, scale, scale),
                mode="bilinear",
                padding_mode="zeros",
            ),
            mt.RandScaleIntensity(config.intensity_scale, prob=1.0),
            mt.RandShiftIntensity(config.intensity_shift, prob=1.0),
            mt.RandAdjustContrast(prob=config.gamma_probability, gamma=config.gamma),
        ],
        lazy=lazy,
    )


def monai_chain(material: Material, lazy: bool = False) -> Chain:
    """Load a windowed float32 file, then MONAI's transforms, volume by volume."""
    transform = monai_transform(lazy=lazy)

    def chain(positions: Sequence[int]) -> torch.Tensor:
        images = []
        for position in positions:
            image = transform(torch.from_numpy(np.load(material.array_path(position)))[None])
            images.append(image.as_tensor())
        return torch.stack(images)

    return chain


def monai_batch_chain(material: Material) -> Chain:
    """Load windowed float32 files, then MONAI's resampling layer and point operations on the whole batch.

    As augmentation runs on a GPU: one `grid_sample` for all samples, with the parameters that ours draw.
    """
    draw = VolumeAugmentation(material.contract, ALL_AXES).draw

    def chain(positions: Sequence[int]) -> torch.Tensor:
        batch = torch.stack([torch.from_numpy(np.load(material.array_path(position)))[None] for position in positions])
        return monai_batch(batch, draw(torch.tensor(positions)), material.contract)

    return chain


def monai_batch(
    batch: torch.Tensor, parameters: AugmentationParameters, contract: PreprocessingContract
) -> torch.Tensor:
    """MONAI's `AffineTransform` on windowed volumes [B, 1, D, H, W], then intensity; float32 [B, 1, *crop]."""
    matrix, offset = sampling_map(parameters, contract.spacing_mm).affine()
    center = torch.tensor(crop_center(contract.grid, ALL_AXES.crop))
    middle = torch.tensor([(size - 1) / 2 for size in ALL_AXES.crop])
    shift = center + offset - (matrix @ middle[:, None])[:, :, 0]
    layer = AffineTransform(ALL_AXES.crop, padding_mode="zeros", align_corners=True)
    image = layer(batch, torch.cat([matrix, shift[:, :, None]], dim=2))
    scale, add, gamma = (
        value.view(-1, 1, 1, 1, 1)
        for value in (parameters.intensity_scale, parameters.intensity_shift, parameters.gamma)
    )
    found: torch.Tensor = (image * scale + add).clamp(0, 1) ** gamma
    return found


def torchio_chain(material: Material) -> Chain:
    """Read a shard, then torchio's transforms with the parameters that ours draw, volume by volume."""
    volumes = material.open()
    draw = VolumeAugmentation(material.contract, ALL_AXES).draw

    def chain(positions: Sequence[int]) -> torch.Tensor:
        parameters = draw(torch.tensor(positions))
        images = []
        for sample, position in enumerate(positions):
            transform = torchio_reference(parameters, material.contract, ALL_AXES.crop, sample)
            image = torchio_image(torch.from_numpy(volumes.read(position)), material.contract)
            images.append(torchio_tensor(transform(image))[None])
        return torch.stack(images)

    return chain


def our_chain(material: Material, config: AugmentationConfig, batched: bool = True) -> Chain:
    """Read shards, then our augmentation on the batch, or on one volume after the other as in a loader's worker."""
    volumes = material.open()
    augmentation = VolumeAugmentation(material.contract, config)

    def chain(positions: Sequence[int]) -> torch.Tensor:
        batch = torch.stack([torch.from_numpy(volumes.read(position))[None] for position in positions])
        return augmentation(batch, torch.tensor(positions))

    def one_by_one(positions: Sequence[int]) -> torch.Tensor:
        return torch.cat([chain([position]) for position in positions])

    return chain if batched else one_by_one


def all_chains(material: Material) -> dict[str, Chain]:
    """Every chain by name, the reference first."""
    in_plane = replace(DEFAULT, rotation_degrees=(10.0, 0.0, 0.0))
    return {
        REFERENCE: monai_chain(material),
        "MONAI, lazy": monai_chain(material, lazy=True),
        "MONAI, whole batch": monai_batch_chain(material),
        "torchio": torchio_chain(material),
        "ours: default, batch of 1": our_chain(material, DEFAULT, batched=False),
        "ours: exact, three axes": our_chain(material, ALL_AXES),
        "ours: exact, default's maps": our_chain(material, replace(DEFAULT, mode="exact")),
        "ours: default": our_chain(material, DEFAULT),
        "ours: default, no pitch": our_chain(material, in_plane),
    }
