"""An encoder that sees where parenchyma, tumour, cyst and sinus are, and says what each of them looks like.

The decoder learns the regions from the masks of the pretraining centres; afterwards no mask is needed. Features are
pooled by region, and beside them stand the HU themselves, which a window and mean pooling over the box lose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from monai.networks.blocks.dynunet_block import UnetResBlock
from torch import nn
from torch.nn import functional

from lightning_modules.core.errors import ModelError
from lightning_modules.networks.image.hounsfield import GEOMETRY, STATISTICS, region_geometry, region_statistics

if TYPE_CHECKING:
    from lightning_modules.networks.image.encoders import EncoderConfig

ANATOMY = ("other", "parenchyma", "tumour", "cyst", "sinus")
"""Classes of the decoder, in the order of its logits."""
REGIONS = ("lesion", "core", "inner rim", "outer rim", "parenchyma", "sinus", "tumour", "cyst")
"""Regions that tokens are pooled over."""
_BORDERS = ("parenchyma", "sinus")
"""What the outer rim of a lesion may lie in; the rest of it is exophytic."""
_NARROW_HU = (-50.0, 180.0)
"""A soft-tissue window beside the presented one: enhancement of lesions takes a third of it."""


class Seen(NamedTuple):
    """What the encoder sees in a batch.

    feature: float [B, F], the one vector.
    tokens: float [B, R, T], one for each of `REGIONS`.
    statistics: float [B, R, 13], HU by region.
    geometry: float [B, R, 6], where each region lies.
    anatomy: float [B, 5, D, H, W], logits of `ANATOMY`.
    """

    feature: torch.Tensor
    tokens: torch.Tensor
    statistics: torch.Tensor
    geometry: torch.Tensor
    anatomy: torch.Tensor


class RegionEncoder(nn.Module):
    """A residual U-Net (nnU-Net's blocks by MONAI) with tokens pooled by region and first-order statistics of HU.

    The image enters in patches, so that the finest features lie on a grid of about 4 to 6 mm, and the decoder paints
    patches back to voxels. Regions are taken from its probabilities without a gradient: where things are is learned
    from masks, what they look like from attributes. Instance normalisation makes a sample independent of its batch.

    Args:
        config: `region_width`, `patch`, `window_hu`, `token_dim` and `region_dim` are used.

    Raises:
        ModelError: if a size is not positive.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        if min(*config.patch, config.region_width, config.token_dim, config.region_dim) < 1:
            raise ModelError(
                f"encoder.patch={config.patch}, region_width={config.region_width}, token_dim={config.token_dim} and "
                f"region_dim={config.region_dim} were found; expected positive numbers."
            )
        width, patch = config.region_width, config.patch
        self.window_hu, self.channels_last = config.window_hu, config.channels_last
        kernel = (3 * patch[0], 3 * patch[1], 3 * patch[2])
        self.stem = nn.Conv3d(2, width, kernel, stride=patch, padding=patch)
        self.down1 = _block(width, width)
        self.down2 = _block(width, 2 * width, stride=2)
        self.down3 = nn.Sequential(_block(2 * width, 4 * width, stride=2), _block(4 * width, 4 * width))
        self.lift2, self.up2 = nn.Conv3d(4 * width, 2 * width, 1), _block(4 * width, 2 * width)
        self.lift1, self.up1 = nn.Conv3d(2 * width, width, 1), _block(2 * width, width)
        self.paint = nn.ConvTranspose3d(width, len(ANATOMY), patch, stride=patch)
        self.tokens = nn.ModuleList(nn.Linear(6 * width, config.token_dim) for _ in REGIONS)
        self.context = nn.Linear(4 * width, 2 * config.token_dim)
        learned = (len(REGIONS) + 2) * config.token_dim
        measured = len(REGIONS) * (len(STATISTICS) + len(GEOMETRY)) + len(_BORDERS)
        # Their scales differ from cohort to cohort: standardised by what training saw.
        self.measured, self.learned = nn.BatchNorm1d(measured), nn.BatchNorm1d(learned)
        # Narrow and linear at its end, as the attributes themselves are: a wide one is noise to a model of few labels.
        self.trunk = nn.Sequential(
            nn.Linear(measured + learned, 256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, config.region_dim)
        )
        self.feature_dim = config.region_dim + measured
        if config.channels_last:
            self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """The parameters from the stem to the trunk, for learning rates that decay towards the stem."""
        parts: tuple[tuple[nn.Module, ...], ...] = (
            (self.stem, self.down1),
            (self.down2, self.down3),
            (self.lift2, self.up2, self.lift1, self.up1, self.paint),
            (self.tokens, self.context, self.measured, self.learned, self.trunk),
        )
        return [[parameter for module in part for parameter in module.parameters()] for part in parts]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Features [B, feature_dim] of images [B, 1, D, H, W] in [0, 1], the contract's window."""
        return self.see(image).feature

    def see(self, image: torch.Tensor, anatomy: torch.Tensor | None = None) -> Seen:
        """Everything that the encoder sees.

        Args:
            image: float [B, 1, D, H, W] in [0, 1], the contract's window.
            anatomy: float [B, 5, D, H, W], probabilities of `ANATOMY` to pool by, as from a mask that is known;
                the decoder's own when left out.
        """
        low, high = self.window_hu
        hu = low + (high - low) * image.float()
        fine, coarse, deep = self._maps(image, hu)
        logits = self._painted(fine, image.shape[2:])
        with torch.no_grad():
            regions = pooled_regions(logits.detach().float().softmax(dim=1) if anatomy is None else anatomy.float())
            geometry, borders = region_geometry(regions), _borders(regions)
        statistics = region_statistics(hu, regions, self.window_hu)
        tokens = self._tokens(fine, coarse, regions)
        context = self.context(deep.mean(dim=(2, 3, 4)))
        measured = self.measured(torch.cat([statistics.flatten(1), geometry.flatten(1), borders], dim=1))
        learned = self.learned(torch.cat([tokens.flatten(1), context], dim=1))
        feature = torch.cat([self.trunk(torch.cat([measured, learned], dim=1)), measured], dim=1)
        return Seen(feature, tokens, statistics, geometry, logits)

    def feature_map(self, image: torch.Tensor) -> torch.Tensor:
        """Deepest features [B, 4 width, d, h, w] of images [B, 1, D, H, W] in [0, 1]."""
        low, high = self.window_hu
        return self._maps(image, low + (high - low) * image.float())[2]

    def _maps(self, image: torch.Tensor, hu: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Feature maps of the decoder, fine and coarse, and the deepest of the encoder."""
        narrow = (hu.clamp(*_NARROW_HU) - sum(_NARROW_HU) / 2) * (2 / (_NARROW_HU[1] - _NARROW_HU[0]))
        views = torch.cat([2 * image - 1, narrow.to(image.dtype)], dim=1)
        if self.channels_last:
            views = views.contiguous(memory_format=torch.channels_last_3d)
        first = self.down1(self.stem(views))
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
            share = functional.adaptive_avg_pool3d(regions, (depth, height, width)).flatten(2)
            flat = features.float().flatten(2).transpose(1, 2)
            share = share / (share.sum(dim=2, keepdim=True) + 0.1)
            mean = share @ flat
            # The region's own share of the sum is below one where it is small, so that it fades to nothing.
            variance = (share @ flat**2 - mean**2).clamp_min(0)
            parts += [mean, (variance + 1e-4).sqrt()]
        pooled = torch.cat(parts, dim=2)
        return torch.stack([token(pooled[:, number]) for number, token in enumerate(self.tokens)], dim=1)


def pooled_regions(anatomy: torch.Tensor) -> torch.Tensor:
    """Shares of every voxel in `REGIONS`, float [B, R, D, H, W], from probabilities of `ANATOMY` [B, 5, D, H, W].

    The core is the lesion without its outermost voxel, where neighbours mix in; the outer rim lies one to two voxels
    outside of it.
    """
    parenchyma, tumour, cyst, sinus = (anatomy[:, number, None] for number in range(1, 5))
    lesion = tumour + cyst
    core = -_widest(-lesion, 3)
    once, twice = _widest(lesion, 3), _widest(lesion, 5)
    outer = (twice - once).clamp_min(0) * (1 - lesion)
    return torch.cat([lesion, core, (lesion - core).clamp_min(0), outer, parenchyma, sinus, tumour, cyst], dim=1)


def _borders(regions: torch.Tensor) -> torch.Tensor:
    """Share of the lesion's outer rim that lies in each of `_BORDERS`, [B, 2]; 0 without a lesion."""
    outer = regions[:, REGIONS.index("outer rim")]
    inside = torch.stack([regions[:, REGIONS.index(name)] for name in _BORDERS], dim=1)
    total = outer.sum(dim=(1, 2, 3))[:, None]
    return (inside * outer[:, None]).sum(dim=(2, 3, 4)) / (total + 1.0)


def _widest(share: torch.Tensor, size: int) -> torch.Tensor:
    """Largest value within a cube of `size` voxels, one axis after the other."""
    for axis in range(3):
        kernel = [size if axis == other else 1 for other in range(3)]
        share = functional.max_pool3d(share, kernel, stride=1, padding=[length // 2 for length in kernel])
    return share


def _onto(features: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(features, size=target.shape[2:], mode="nearest")


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    return UnetResBlock(3, inputs, outputs, kernel_size=3, stride=stride, norm_name=("instance", {"affine": True}))
