"""An encoder that sees where parenchyma, tumour, cyst and sinus are, and says what each of them looks like.

It reads all contrast phases of a visit together. The decoder learns the regions from the masks of the pretraining
centres; afterwards no mask is needed. Features are pooled by region, and beside them stand the HU themselves by phase,
which a window and mean pooling over the box lose, and the lesion's size and place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from monai.networks.blocks.dynunet_block import UnetResBlock
from torch import nn
from torch.nn import functional

from lightning_modules.core.errors import ModelError
from lightning_modules.core.precision import full_precision
from lightning_modules.networks.image.hounsfield import (
    GEOMETRY,
    STATISTICS,
    phase_summary,
    region_geometry,
    region_statistics,
)
from lightning_modules.networks.image.lesion_shape import SHAPE, lesion_shape, widened
from lightning_modules.networks.image.phases import drop_phases
from lightning_modules.networks.image.standardized import Standardized

if TYPE_CHECKING:
    from lightning_modules.networks.image.encoders import EncoderConfig

ANATOMY = ("other", "parenchyma", "tumour", "cyst", "sinus")
"""Classes of the decoder, in the order of its logits."""
REGIONS = ("lesion", "core", "inner rim", "outer rim", "parenchyma", "sinus", "tumour", "cyst")
"""Regions that tokens are pooled over."""
PHASES = 4
"""Contrast phases, the channels of an image; the first is the one without contrast."""
_FAINT = 0.02
_NARROW_HU = (-50.0, 180.0)
"""A soft-tissue window beside the presented one: enhancement of lesions takes a third of it."""


class Seen(NamedTuple):
    """What the encoder sees in a batch.

    feature: float [B, F], the one vector: what the trunk makes of the readings, and the lesion's size and place.
    readings: float [B, K], all that was measured and learned of the regions, which the trunk reads.
    tokens: float [B, R, T], one for each of `REGIONS`.
    statistics: float [B, P, R, 13], HU by phase and region; 0 where a phase is absent.
    geometry: float [B, R, 6], where each region lies.
    shape: float [B, 17], size and place of the lesion.
    anatomy: float [B, 5, D, H, W], logits of `ANATOMY`.
    """

    feature: torch.Tensor
    readings: torch.Tensor
    tokens: torch.Tensor
    statistics: torch.Tensor
    geometry: torch.Tensor
    shape: torch.Tensor
    anatomy: torch.Tensor


class RegionEncoder(nn.Module):
    """A residual U-Net (nnU-Net's blocks by MONAI) with tokens pooled by region and first-order statistics of HU.

    The phases enter as channels of the first convolution, so that what changes from one to the other is within its
    reach; they must lie alike, as the series of one kidney do that were cut by one mask. An absent phase is a learned
    shift in its place, and training takes phases away at random. The image enters in patches, so that the finest
    features lie on a grid of about 4 to 6 mm, and the decoder paints patches back to voxels. Regions are taken from
    its probabilities without a gradient: where things are is learned from masks, what they look like from attributes.
    No normalisation makes a sample depend on its batch.

    Args:
        config: `region_width`, `patch`, `window_hu`, `token_dim`, `region_dim` and `phase_dropout` are used.

    Raises:
        ModelError: if a size is not positive, or the dropout no probability below one.
    """

    joins_phases = True

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        if min(*config.patch, config.region_width, config.token_dim, config.region_dim) < 1:
            raise ModelError(
                f"encoder.patch={config.patch}, region_width={config.region_width}, token_dim={config.token_dim} and "
                f"region_dim={config.region_dim} were found; expected positive numbers."
            )
        if not 0 <= config.phase_dropout < 1:
            raise ModelError(f"encoder.phase_dropout={config.phase_dropout:g} was found; expected one in [0, 1).")
        width, patch = config.region_width, config.patch
        self.window_hu, self.channels_last = config.window_hu, config.channels_last
        self.phase_dropout = config.phase_dropout
        kernel = (3 * patch[0], 3 * patch[1], 3 * patch[2])
        self.stem = nn.Conv3d(2 * PHASES, width, kernel, stride=patch, padding=patch)
        self.absent = nn.Parameter(torch.zeros(PHASES, width))
        self.down1 = _block(width, width)
        self.down2 = _block(width, 2 * width, stride=2)
        self.down3 = nn.Sequential(_block(2 * width, 4 * width, stride=2), _block(4 * width, 4 * width))
        self.lift2, self.up2 = nn.Conv3d(4 * width, 2 * width, 1), _block(4 * width, 2 * width)
        self.lift1, self.up1 = nn.Conv3d(2 * width, width, 1), _block(2 * width, width)
        self.paint = nn.ConvTranspose3d(width, len(ANATOMY), patch, stride=patch)
        self.tokens = nn.ModuleList(nn.Linear(6 * width, config.token_dim) for _ in REGIONS)
        self.context = nn.Linear(4 * width, 2 * config.token_dim)
        learned = (len(REGIONS) + 2) * config.token_dim
        by_phase = PHASES * len(REGIONS) * len(STATISTICS)
        summary = len(REGIONS) * (3 * len(STATISTICS) - 2 + len(GEOMETRY)) + PHASES + len(SHAPE)
        self.measured, self.by_phase = Standardized(summary), Standardized(by_phase)
        self.learned = nn.LayerNorm(learned)
        # Narrow and linear at its end, as the attributes themselves are: a wide one, or the measurements themselves,
        # are noise to a model of few labels. Size and place are few, and stand beside it.
        self.trunk = nn.Sequential(
            nn.Linear(summary + by_phase + learned, 256),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(256, config.region_dim),
        )
        self.feature_dim = config.region_dim + len(SHAPE)
        if config.channels_last:
            self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """The parameters from the stem to the trunk, for learning rates that decay towards the stem."""
        parts: tuple[tuple[nn.Module, ...], ...] = (
            (self.stem, self.down1),
            (self.down2, self.down3),
            (self.lift2, self.up2, self.lift1, self.up1, self.paint),
            (self.tokens, self.context, self.learned, self.trunk),
        )
        groups = [[parameter for module in part for parameter in module.parameters()] for part in parts]
        return [[self.absent, *groups[0]], *groups[1:]]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Features [B, feature_dim] of images [B, 4, D, H, W] in [0, 1], the contract's window; -1 is absent."""
        return self.see(image).feature

    def see(self, image: torch.Tensor, anatomy: torch.Tensor | None = None) -> Seen:
        """Everything that the encoder sees.

        Args:
            image: float [B, 4, D, H, W], one channel a contrast phase, in [0, 1], the contract's window; a phase that
                is not there is negative throughout.
            anatomy: float [B, 5, D, H, W], probabilities of `ANATOMY` to pool by, as from a mask that is known;
                the decoder's own when left out.

        Raises:
            ModelError: if the channels are not the phases, or a sample has none.
        """
        hu, available = self._phases(image)
        fine, coarse, deep = self._maps(hu, available)
        logits = self._painted(fine, image.shape[2:])
        with full_precision(hu.device):  # moments and quantiles of HU, sizes in voxels: eight bits would not do
            return self._read(hu, available, (fine, coarse, deep), logits, anatomy)

    def _read(
        self,
        hu: torch.Tensor,
        available: torch.Tensor,
        maps: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        logits: torch.Tensor,
        anatomy: torch.Tensor | None,
    ) -> Seen:
        """What is measured and learned of the regions of images."""
        fine, coarse, deep = maps
        with torch.no_grad():
            regions = painted_regions(logits) if anatomy is None else pooled_regions(anatomy.float())
            geometry = region_geometry(regions)
            part = {name: regions[:, number, None] for number, name in enumerate(REGIONS)}
            shape = lesion_shape(part["lesion"], part["outer rim"], part["parenchyma"], part["sinus"])
            statistics = region_statistics(hu, regions, self.window_hu) * available[:, :, None, None]
            summary = [shape, geometry.flatten(1), phase_summary(statistics, available)]
            measured, by_phase = self.measured(torch.cat(summary, dim=1)), self.by_phase(statistics.flatten(1))
        tokens = self._tokens(fine, coarse, regions)
        context = self.context(deep.float().mean(dim=(2, 3, 4)))
        learned = self.learned(torch.cat([tokens.flatten(1), context], dim=1))
        readings = torch.cat([measured, by_phase, learned], dim=1)
        return Seen(self.described(readings), readings, tokens, statistics, geometry, shape, logits)

    def described(self, readings: torch.Tensor) -> torch.Tensor:
        """The feature [B, F] of readings [B, K], whose first entries are the lesion's size and place."""
        return torch.cat([self.trunk(readings), readings[:, : len(SHAPE)]], dim=1)

    def mean_readings(self) -> torch.Tensor:
        """The readings [K] of the mean training kidney: 0 of what is standardised, the bias of what is learned."""
        measured = len(self.measured.mean) + len(self.by_phase.mean)
        return torch.cat([self.learned.bias.new_zeros(measured), self.learned.bias.detach()])

    def feature_map(self, image: torch.Tensor) -> torch.Tensor:
        """Deepest features [B, 4 width, d, h, w] of images as of `see`."""
        return self._maps(*self._phases(image))[2]

    def _phases(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """HU float32 [B, P, D, H, W], and which phases there are, bool [B, P]."""
        if image.dim() != 5 or image.shape[1] != PHASES:
            raise ModelError(
                f"The region encoder was given images {list(image.shape)}; it reads the {PHASES} contrast phases of a "
                "visit as channels. Set data.init_args.phases to joined."
            )
        # What is there lies in [0, 1], so that one voxel tells.
        available = image[:, :, 0, 0, 0] >= 0
        # Not asked in training, whose samples hold the phase that was drawn: the device would have to be waited for.
        # An exported graph asks nothing of its data.
        asked = not self.training and not torch.compiler.is_exporting()
        if asked and not bool(available.any(dim=1).all()):
            raise ModelError("A sample without any contrast phase was given to the region encoder; leave it out.")
        if self.training:
            available = drop_phases(available, self.phase_dropout)
        low, high = self.window_hu
        return low + (high - low) * image.float(), available

    def _maps(self, hu: torch.Tensor, available: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Feature maps of the decoder, fine and coarse, and the deepest of the encoder."""
        low, high = self.window_hu
        there = available.to(self.stem.weight.dtype)
        wide = (hu - (low + high) / 2) * (2 / (high - low))
        narrow = (hu.clamp(*_NARROW_HU) - sum(_NARROW_HU) / 2) * (2 / (_NARROW_HU[1] - _NARROW_HU[0]))
        views = torch.cat([wide, narrow], dim=1).to(there.dtype) * torch.cat([there, there], dim=1).view(
            hu.shape[0], -1, 1, 1, 1
        )
        if self.channels_last:
            views = views.contiguous(memory_format=torch.channels_last_3d)
        first = self.down1(self.stem(views) + ((1 - there) @ self.absent)[:, :, None, None, None])
        second = self.down2(first)
        deep = self.down3(second)
        coarse = self.up2(torch.cat([_onto(self.lift2(deep), second), second], dim=1))
        fine = self.up1(torch.cat([_onto(self.lift1(coarse), first), first], dim=1))
        return fine, coarse, deep

    def _painted(self, fine: torch.Tensor, size: torch.Size) -> torch.Tensor:
        """Logits on the image's voxels; a last patch that is not whole is completed from its neighbour."""
        logits: torch.Tensor = self.paint(fine)
        depth, height, width = size
        missing = [max(0, want - have) for want, have in zip(size, logits.shape[2:], strict=True)]
        if any(missing):
            logits = functional.pad(logits, [0, missing[2], 0, missing[1], 0, missing[0]], mode="replicate")
        painted: torch.Tensor = logits[:, :, :depth, :height, :width]
        return painted

    def _tokens(self, fine: torch.Tensor, coarse: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        """Mean and spread of the decoder's features in every region, [B, R, T]."""
        parts = []
        for features in (fine, coarse):
            depth, height, width = features.shape[2:]
            share = averaged(regions, (depth, height, width)).flatten(2)
            flat = features.float().flatten(2).transpose(1, 2)
            share = share / (share.sum(dim=2, keepdim=True) + 0.1)
            mean = share @ flat
            # The region's own share of the sum is below one where it is small, so that it fades to nothing.
            variance = (share @ flat**2 - mean**2).clamp_min(0)
            parts += [mean, (variance + 1e-4).sqrt()]
        pooled = torch.cat(parts, dim=2)
        return torch.stack([token(pooled[:, number]) for number, token in enumerate(self.tokens)], dim=1)


def painted_regions(logits: torch.Tensor) -> torch.Tensor:
    """Shares of every voxel in `REGIONS` as of `pooled_regions`, from logits of `ANATOMY` [B, 5, D, H, W]."""
    return pooled_regions(logits.detach().float().softmax(dim=1))


def pooled_regions(anatomy: torch.Tensor) -> torch.Tensor:
    """Shares of every voxel in `REGIONS`, float [B, R, D, H, W], from probabilities of `ANATOMY` [B, 5, D, H, W].

    The core is the lesion without its outermost voxel, where neighbours mix in; the outer rim lies one to two voxels
    outside of it. A share of less than a fiftieth is none: the box is large, and its many faint voxels would outweigh a
    small lesion.
    """
    anatomy = anatomy * (anatomy >= _FAINT)
    parenchyma, tumour, cyst, sinus = (anatomy[:, number, None] for number in range(1, 5))
    lesion = tumour + cyst
    core = -widened(-lesion)
    once = widened(lesion)
    outer = (widened(once) - once).clamp_min(0) * (1 - lesion)
    return torch.cat([lesion, core, (lesion - core).clamp_min(0), outer, parenchyma, sinus, tumour, cyst], dim=1)


def averaged(features: torch.Tensor, size: tuple[int, int, int]) -> torch.Tensor:
    """Features [B, C, D, H, W] averaged to a size by adaptive windows; in a graph for ONNX as products of matrices.

    ONNX has no operator for adaptive windows.
    """
    if not torch.compiler.is_exporting():
        return functional.adaptive_avg_pool3d(features, size)
    for axis, count in enumerate(size, start=2):
        features = (features.movedim(axis, -1) @ _windows(features.shape[axis], count).to(features).T).movedim(-1, axis)
    return features


def _windows(size: int, count: int) -> torch.Tensor:
    """Share of every voxel in every adaptive window, float [count, size]."""
    windows = torch.zeros(count, size)
    for number in range(count):
        first, last = number * size // count, -(-(number + 1) * size // count)
        windows[number, first:last] = 1 / (last - first)
    return windows


def _onto(features: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(features, size=target.shape[2:], mode="nearest")


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    return UnetResBlock(3, inputs, outputs, kernel_size=3, stride=stride, norm_name=("instance", {"affine": True}))
