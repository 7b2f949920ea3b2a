"""The augmentation of a batch, as a module that moves with the DataModule's batch to its device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from datamodules.augmentation.exact import ExactResampler
from datamodules.augmentation.intensity import vary_, window_
from datamodules.augmentation.layout import presented, turned
from datamodules.augmentation.parameters import AugmentationConfig, AugmentationParameters, Mode, sample_parameters
from datamodules.augmentation.sampling_map import crop_start, sampling_map
from datamodules.augmentation.separable import SeparableResampler, pitch_reach
from datamodules.errors import DataError
from datamodules.volumes.contract import ABSENT, PreprocessingContract, channels_there


class VolumeAugmentation(nn.Module):
    """Turns stored volumes into the network's input, varied for training and plain for evaluation.

    It has no state and draws nothing from torch's generators: what a sample looks like depends on its seed alone.
    Nothing is read back from the device, and no gradient is kept.

    Args:
        contract: Preprocessing contract of the volumes.
        config: Ranges of the augmentation.
        dtype: Type of the output, float32 or a half-precision type; all arithmetic is float32.

    Raises:
        DataError: if the crop is larger than the contract's grid.
    """

    def __init__(
        self,
        contract: PreprocessingContract,
        config: AugmentationConfig | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.contract, self.config, self.dtype = contract, config or AugmentationConfig(), dtype
        if any(size > count for size, count in zip(self.config.crop, contract.grid, strict=True)):
            raise DataError(
                f"Augmentation: a crop of {self.config.crop} voxels was asked of the stored grid {contract.grid} "
                "(D x H x W); choose a crop that is nowhere larger."
            )
        self._reach = pitch_reach(self.config.rotation_degrees[2], contract)

    def draw(self, seeds: torch.Tensor) -> AugmentationParameters:
        """The parameters that `forward` uses for these seeds, int64 [B]."""
        return sample_parameters(seeds, self.config, self.contract)

    def forward(self, batch: torch.Tensor, seeds: torch.Tensor, there: torch.Tensor | None = None) -> torch.Tensor:
        """Augment a training batch.

        Args:
            batch: int16 or float [B, C, D, H, W] in HU on the contract's grid; the channels of a sample are varied
                alike. A channel that is absent is `ABSENT_HU` throughout.
            seeds: int64 [B], one per sample, on any device.
            there: int64 [K], row * C + channel of what is not absent, on the batch's device; looked for, which a GPU
                has to be waited for, where left out.

        Returns:
            [B, C, *crop] in [0, 1], `ABSENT` where a channel is; turned and scaled as the contract says of the
            network's input.

        Raises:
            DataError: if the batch has another shape, or not one seed per sample.
        """
        seeds = seeds.to(batch.device, non_blocking=True)
        if batch.dim() == 5 and batch.shape[1] > 1 and len(seeds) == len(batch):
            return self._by_channel(batch, there, lambda image, sample: self.transform(image, self.draw(seeds[sample])))
        return self.transform(batch, self.draw(seeds))

    def _by_channel(
        self,
        batch: torch.Tensor,
        there: torch.Tensor | None,
        change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """Put the channels that are there through `change`, one by one, with the numbers of their samples."""
        there = channels_there(batch) if there is None else there
        changed = change(batch.flatten(0, 1)[there][:, None], there // batch.shape[1])
        result = changed.new_full((len(batch) * batch.shape[1], *changed.shape[2:]), ABSENT)
        result[there] = changed[:, 0]
        return result.unflatten(0, (-1, batch.shape[1]))

    @torch.no_grad()
    def transform(
        self,
        batch: torch.Tensor,
        parameters: AugmentationParameters,
        mode: Mode | None = None,
        at_once: int | None = None,
    ) -> torch.Tensor:
        """Apply given parameters.

        Args:
            batch: int16 or float [B, 1, D, H, W] in HU.
            parameters: One entry per sample, on the batch's device.
            mode: As in `AugmentationConfig`, whose mode is the default.
            at_once: Volumes resampled together: by default one on a CPU, where it stays in the cache, and 64 on any
                other device, which bounds the working memory.

        Raises:
            DataError: if batch, parameters and mode do not go together.
        """
        self._check(batch)
        if len(parameters) != len(batch):
            raise DataError(f"Augmentation: {len(batch)} volumes and {len(parameters)} seeds; expected one for each.")
        mode = mode or self.config.mode
        if mode == "separable" and parameters.rolled:
            raise DataError("Augmentation: the mode separable does not know rotations about H; choose mode exact.")
        step = at_once or (1 if batch.device.type == "cpu" else 64)
        resample = self._resampler(parameters, mode, min(step, len(batch)), self.contract.pad_hu)
        output = batch.new_empty(len(batch), 1, *self.config.crop, dtype=self.dtype)
        for first in range(0, len(batch), step):
            part = slice(first, first + step)
            image = window_(resample(batch[part, 0], part), self.contract.window_hu)
            output[part, 0] = vary_(image, parameters[part])
        return presented(output, self.contract)

    def _resampler(
        self, parameters: AugmentationParameters, mode: Mode, at_once: int, pad: float
    ) -> ExactResampler | SeparableResampler:
        mapping = sampling_map(parameters, self.contract.spacing_mm)
        grid, crop = self.contract.grid, self.config.crop
        if mode == "exact":
            return ExactResampler(mapping, grid, crop, pad, at_once)
        return SeparableResampler(mapping, grid, crop, pad, self._reach)

    @torch.no_grad()
    def evaluate(self, batch: torch.Tensor, there: torch.Tensor | None = None) -> torch.Tensor:
        """The windowed centre crop of a validation or test batch; arguments and result as in `forward`."""
        if batch.dim() == 5 and batch.shape[1] > 1:
            return self._by_channel(batch, there, lambda image, sample: self.evaluate(image))
        self._check(batch)
        start = crop_start(self.contract.grid, self.config.crop)
        for axis, (first, size) in enumerate(zip(start, self.config.crop, strict=True), start=2):
            batch = batch.narrow(axis, first, size)
        image = batch.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        return presented(window_(image, self.contract.window_hu).to(self.dtype), self.contract)

    @torch.no_grad()
    def follow(self, codes: torch.Tensor, classes: int, seeds: torch.Tensor | None = None) -> torch.Tensor:
        """Take label maps along with their images: the same crop, turn and scale, linear between voxels.

        Args:
            codes: uint8 [B, 1, D, H, W] on the contract's grid; codes of `classes` and above belong to no class.
            classes: Number of classes; the first takes what the others leave.
            seeds: int64 [B] of a training batch that `forward` took; the centre crop when left out.

        Returns:
            float32 [B, classes, *crop], share of each class in every voxel; turned as the network's input is.
        """
        self._check(codes)
        one_hot = (codes == torch.arange(1, classes, device=codes.device).view(1, -1, 1, 1, 1)).to(torch.float32)
        if seeds is None:
            for axis, (first, size) in enumerate(
                zip(crop_start(self.contract.grid, self.config.crop), self.config.crop, strict=True), start=2
            ):
                one_hot = one_hot.narrow(axis, first, size)
            shares = one_hot
        else:
            shares = self._resampled(one_hot, self.draw(seeds.to(codes.device, non_blocking=True)))
        rest = (1 - shares.sum(dim=1, keepdim=True)).clamp_min(0)
        return turned(torch.cat([rest, shares], dim=1), self.contract)

    def _resampled(self, channels: torch.Tensor, parameters: AugmentationParameters) -> torch.Tensor:
        """float32 [B, C, *crop] of [B, C, D, H, W] along one map a sample, 0 outside the source."""
        step = 1 if channels.device.type == "cpu" else 64
        resample = self._resampler(parameters, self.config.mode, min(step, len(channels)), pad=0.0)
        output = channels.new_empty(*channels.shape[:2], *self.config.crop)
        for first in range(0, len(channels), step):
            part = slice(first, first + step)
            for channel in range(channels.shape[1]):
                output[part, channel] = resample(channels[part, channel], part)
        return output

    def _check(self, batch: torch.Tensor) -> None:
        if batch.dim() != 5 or tuple(batch.shape[1:]) != (1, *self.contract.grid):
            raise DataError(
                f"Augmentation: a batch of shape {tuple(batch.shape)} was found; "
                f"expected [B, 1, {', '.join(map(str, self.contract.grid))}], the contract's grid."
            )
