"""What is varied and how far, and the values drawn for each sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch

from datamodules.errors import DataError
from datamodules.volumes.contract import PreprocessingContract

Mode = Literal["separable", "exact"]


@dataclass(frozen=True)
class AugmentationConfig:
    """Ranges of the training augmentation; triples are in the order D, H, W.

    The ranges are those of RenalCLIP (Tao et al., Nature Communications 2026), with two differences. Rotations are in
    patient space: ten degrees in voxel indices, as published, are 35 degrees in mm out of plane at 1 x 1 x 4 mm. And
    there is none about H by default, which allows the faster mode.

    Args:
        crop: Voxels of the network's input, D x H x W.
        random_crop: Place the crop anywhere within the stored grid; at its centre otherwise.
        rotation_degrees: Largest rotation about each axis, in patient space, within [0, 45]: in the axial, the
            coronal and the sagittal plane.
        translation_mm: Largest translation along each axis, on top of the random crop.
        scale_in_plane: Largest relative change of size in H and W together, within [0, 0.5].
        scale_through_plane: Largest relative change of size in D, within [0, 0.5].
        flip_probability: Probability of a left-right flip. Off by default: pretraining reads the side of a kidney.
        intensity_scale: The windowed image is multiplied by 1 +- this, within [0, 1].
        intensity_shift: Then +- this is added, within [0, 1].
        gamma: Smallest and largest exponent; drawn uniformly in its logarithm, so that as many images get darker as
            brighter.
        gamma_probability: Probability that an exponent other than 1 is drawn.
        mode: `separable` resamples the sagittal and then the axial plane, several times faster on a CPU, and knows no
            rotation about H. `exact` is one trilinear interpolation along any of these maps.

    Raises:
        DataError: if a value is outside its range, or the mode does not know the rotation.
    """

    crop: tuple[int, int, int] = (32, 128, 128)
    random_crop: bool = True
    rotation_degrees: tuple[float, float, float] = (10.0, 0.0, 10.0)
    translation_mm: tuple[float, float, float] = (0.0, 10.0, 10.0)
    scale_in_plane: float = 0.1
    scale_through_plane: float = 0.0
    flip_probability: float = 0.0
    intensity_scale: float = 0.1
    intensity_shift: float = 0.1
    gamma: tuple[float, float] = (0.5, 2.0)
    gamma_probability: float = 0.5
    mode: Mode = "separable"

    def __post_init__(self) -> None:
        # YAML gives lists; equality and hashing want tuples.
        for name in ("crop", "rotation_degrees", "translation_mm", "gamma"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check_triple("crop", 1, math.inf)
        self._check_triple("rotation_degrees", 0, 45)
        self._check_triple("translation_mm", 0, math.inf)
        for name, highest in (
            ("scale_in_plane", 0.5),
            ("scale_through_plane", 0.5),
            ("flip_probability", 1),
            ("intensity_scale", 1),
            ("intensity_shift", 1),
            ("gamma_probability", 1),
        ):
            if not 0 <= getattr(self, name) <= highest:
                raise DataError(
                    f"Augmentation: {name}={getattr(self, name)} was found; expected a number in [0, {highest}]."
                )
        if len(self.gamma) != 2 or not 0 < self.gamma[0] <= self.gamma[1] < math.inf:
            raise DataError(f"Augmentation: gamma={self.gamma} was found; expected (smallest, largest), both positive.")
        if self.mode not in ("separable", "exact"):
            raise DataError(f"Augmentation: mode={self.mode!r} is unknown; choose separable or exact.")
        if self.mode == "separable" and self.rotation_degrees[1] > 0:
            raise DataError(
                f"Augmentation: rotation_degrees={self.rotation_degrees} asks for rotations about H, which the mode "
                "separable does not know; choose mode exact, or 0 for the second angle."
            )

    def _check_triple(self, name: str, lowest: float, highest: float) -> None:
        values = getattr(self, name)
        if len(values) != 3 or not all(lowest <= value <= highest and math.isfinite(value) for value in values):
            raise DataError(
                f"Augmentation: {name}={values} was found; expected three numbers of at least {lowest}"
                f"{f' and at most {highest}' if math.isfinite(highest) else ''}, in the order D, H, W."
            )


@dataclass(frozen=True)
class AugmentationParameters:
    """The values drawn for a batch; one entry per sample, all on one device.

    A point p of the patient, in mm from the centre of the crop, moves to `flip(scale * (R p + translation))` with
    R = R_D R_W R_H, each a right-handed rotation about an axis that points to the end of the array axis (superior,
    anterior, right).

    Args:
        rotation_degrees: float32 [B, 3], about D, H, W.
        translation_mm: float32 [B, 3], along D, H, W; the position of the crop included.
        scale: float32 [B, 3], factor of size along D, H, W.
        flip: bool [B], left-right flip.
        intensity_scale: float32 [B], factor of the windowed image.
        intensity_shift: float32 [B], added to it afterwards.
        gamma: float32 [B], exponent of the result.
        rolled: Whether a rotation about H may differ from 0, which the separable mode does not know. A plain bool, so
            that nobody has to look at the device.
    """

    rotation_degrees: torch.Tensor
    translation_mm: torch.Tensor
    scale: torch.Tensor
    flip: torch.Tensor
    intensity_scale: torch.Tensor
    intensity_shift: torch.Tensor
    gamma: torch.Tensor
    rolled: bool = True

    @classmethod
    def identity(cls, batch: int, device: torch.device | str = "cpu") -> AugmentationParameters:
        """Parameters that leave `batch` samples as they are: the windowed centre crop."""
        zeros, ones = torch.zeros(batch, 3, device=device), torch.ones(batch, 3, device=device)
        return cls(
            rotation_degrees=zeros,
            translation_mm=zeros,
            scale=ones,
            flip=torch.zeros(batch, dtype=torch.bool, device=device),
            intensity_scale=ones[:, 0],
            intensity_shift=zeros[:, 0],
            gamma=ones[:, 0],
            rolled=False,
        )

    def __len__(self) -> int:
        return len(self.gamma)

    def __getitem__(self, samples: slice) -> AugmentationParameters:
        """The parameters of some samples."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "rolled"}
        return AugmentationParameters(**{name: value[samples] for name, value in values.items()}, rolled=self.rolled)


def sample_parameters(
    seeds: torch.Tensor, config: AugmentationConfig, contract: PreprocessingContract
) -> AugmentationParameters:
    """Draw the parameters of every sample from its own seed, on the device of the seeds.

    Args:
        seeds: int64 [B]; equal seeds give equal parameters in any batch and on any device.
        config: Ranges.
        contract: Grid and spacing of the stored volumes; says how far the crop can move.
    """
    draws = uniform(seeds, 16)
    symmetric = 2 * draws - 1
    room_mm = [
        config.random_crop * (count - crop) / 2 * spacing
        for count, crop, spacing in zip(contract.grid, config.crop, contract.spacing_mm, strict=True)
    ]
    in_plane = 1 + config.scale_in_plane * symmetric[:, 9]
    low, high = (math.log(value) for value in config.gamma)
    gamma = torch.exp(low + (high - low) * draws[:, 15])
    return AugmentationParameters(
        rotation_degrees=per_axis(symmetric[:, 0:3], config.rotation_degrees),
        translation_mm=per_axis(symmetric[:, 3:6], config.translation_mm) + per_axis(symmetric[:, 6:9], room_mm),
        scale=torch.stack([1 + config.scale_through_plane * symmetric[:, 10], in_plane, in_plane], dim=1),
        flip=draws[:, 11] < config.flip_probability,
        intensity_scale=1 + config.intensity_scale * symmetric[:, 12],
        intensity_shift=config.intensity_shift * symmetric[:, 13],
        gamma=torch.where(draws[:, 14] < config.gamma_probability, gamma, torch.ones_like(gamma)),
        rolled=config.rotation_degrees[1] > 0,
    )


def per_axis(values: torch.Tensor, factors: Sequence[float]) -> torch.Tensor:
    """Multiply [B, 3] by one number per axis; numbers of a tensor would have to be sent to the device first."""
    return torch.stack([values[:, axis] * factor for axis, factor in enumerate(factors)], dim=1)


def uniform(seeds: torch.Tensor, count: int) -> torch.Tensor:
    """Independent uniform numbers from seeds, by hashing: no generator state, no transfer to the host.

    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) in 64-bit integers that wrap around, the same on every device.

    Args:
        seeds: int64 [B].
        count: Numbers per seed.

    Returns:
        float32 [B, count] in [0, 1).
    """
    steps = torch.arange(1, count + 1, device=seeds.device, dtype=torch.int64) * _GOLDEN
    bits = _mixed(_mixed(seeds.to(torch.int64))[:, None] + steps)
    return _shifted(bits, 40).to(torch.float32) * 2.0**-24


# SplitMix64's constants as signed 64-bit integers.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)


def _shifted(bits: torch.Tensor, places: int) -> torch.Tensor:
    """Logical shift to the right; torch's own keeps the sign."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _mixed(bits: torch.Tensor) -> torch.Tensor:
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)
