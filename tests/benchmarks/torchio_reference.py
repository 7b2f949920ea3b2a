"""torchio's transforms with the parameters of our own: the reference on a CPU, one sample at a time."""

from __future__ import annotations

import numpy as np
import torch
import torchio as tio
from scipy.spatial.transform import Rotation

from datamodules.augmentation.parameters import AugmentationParameters
from datamodules.augmentation.sampling_map import Grid, crop_center, crop_start
from datamodules.volumes.contract import PreprocessingContract


def torchio_image(volume: torch.Tensor, contract: PreprocessingContract) -> tio.ScalarImage:
    """A stored volume [D, H, W] in HU as an image in patient space."""
    depth, height, width = contract.spacing_mm
    # torchio's arrays run right, anterior, superior: ours reversed.
    return tio.ScalarImage(tensor=volume.permute(2, 1, 0)[None], affine=np.diag([width, height, depth, 1]))


def torchio_tensor(image: tio.ScalarImage) -> torch.Tensor:
    """The array [D, H, W] of an image in patient space."""
    return image.data[0].permute(2, 1, 0)


def torchio_reference(
    parameters: AugmentationParameters, contract: PreprocessingContract, crop: Grid, sample: int = 0
) -> tio.Compose:
    """The transform of one sample, for images as `torchio_image` makes them.

    Args:
        parameters: Drawn parameters, on the CPU.
        contract: Preprocessing contract of the volume.
        crop: Size of the result, D x H x W.
        sample: Which sample's parameters.

    Returns:
        Affine, crop, flip, window, scale and shift, gamma, in the order of `VolumeAugmentation`.
    """
    start = crop_start(contract.grid, crop)
    margins = [(first, count - first - size) for first, count, size in zip(start, contract.grid, crop, strict=True)]
    low, high = contract.window_hu
    scale, shift = float(parameters.intensity_scale[sample]), float(parameters.intensity_shift[sample])
    transforms = [
        _affine(parameters, contract, crop, sample),
        tio.Crop((*margins[2], *margins[1], *margins[0])),
        *([tio.Flip(axes=(0,))] if parameters.flip[sample] else []),
        tio.Clamp(low, high),
        tio.RescaleIntensity(out_min_max=(0, 1), in_min_max=(low, high)),
        tio.Lambda(lambda image: image * scale + shift),
        tio.Clamp(0, 1),
        tio.Gamma(float(parameters.gamma[sample])),
    ]
    return tio.Compose(transforms)


def _affine(parameters: AugmentationParameters, contract: PreprocessingContract, crop: Grid, sample: int) -> tio.Affine:
    """The motion in patient axes R, A, S, which is the order W, H, D; R_D R_W R_H is ITK's order of rotations too."""
    degrees, translation, scale = (
        values[sample].double().numpy()[::-1]
        for values in (parameters.rotation_degrees, parameters.translation_mm, parameters.scale)
    )
    # Ours turns about the centre of the crop, torchio about that of the image; they differ where the margin is odd.
    voxels = np.array(crop_center(contract.grid, crop)) - (np.array(contract.grid) - 1) / 2
    offset = (voxels * np.array(contract.spacing_mm))[::-1]
    rotation = Rotation.from_euler("yxz", degrees[[1, 0, 2]], degrees=True)
    translation = translation + offset / scale - rotation.apply(offset)
    return tio.Affine(
        scales=tuple(scale),
        degrees=tuple(degrees),
        translation=tuple(translation),
        default_pad_value=contract.pad_hu,
    )
