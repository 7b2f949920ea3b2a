"""The encoder of CT-FM: MONAI's SegResEncoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets.segresnet_ds import SegResEncoder
from torch import nn

from lightning_modules.networks.image.published.published_encoder import PublishedEncoder


class PublishedSegRes(PublishedEncoder):
    """A residual encoder up to the mean over the voxels of its last level (Myronenko, BrainLes 2018).

    Any size of input does; the release was trained on 24 x 128 x 128 voxels.

    Args:
        levels: Number of blocks of each level.
        width: Channels of the first level; each further one has twice as many.
        checkpointing: See `PublishedEncoder`.
    """

    def __init__(self, *, levels: Sequence[int], width: int, checkpointing: bool = False) -> None:
        super().__init__(feature_dim=width * 2 ** (len(levels) - 1), checkpointing=checkpointing)
        network = SegResEncoder(init_filters=width, blocks_down=tuple(levels))
        self.conv_init, self.layers = network.conv_init, network.layers

    def parts(self) -> list[nn.Module | Sequence[nn.Module]]:
        """The first convolution and the levels."""
        return [self.conv_init, *self.layers]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Features [B, feature_dim] of images [B, 1, D, H, W]."""
        hidden: torch.Tensor = self.conv_init(image)
        for level in self.layers:
            hidden = level["downsample"](self._run(level["blocks"], hidden))  # type: ignore[index]
        return hidden.mean(dim=(2, 3, 4))
