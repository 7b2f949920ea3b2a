"""The residual networks of Merlin and of the released RenalCLIP, out of MONAI's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import ResNet
from monai.networks.nets.resnet import ResNetBlock, ResNetBottleneck
from torch import nn
from torch.nn import functional

from lightning_modules.networks.image.published.published_encoder import PublishedEncoder


class PublishedResNet(PublishedEncoder):
    """A 3D residual network up to its pooled feature.

    Args:
        layers: Number of blocks of each of the four stages.
        width: Channels of the stem.
        bottleneck: Blocks of three convolutions and four times the channels, else of two.
        inflated: The stem of a network inflated from two dimensions (Carreira and Zisserman, CVPR 2017): kernel 3 x 7
            x 7 of stride 1 x 2 x 2 over three equal channels, and input whose third axis is the depth. Else kernel 7
            and stride 2.
        projected: Shortcuts that change the shape are convolutions (type B), else they pad with zeros (type A).
        checkpointing: See `PublishedEncoder`.
    """

    def __init__(
        self,
        *,
        layers: Sequence[int],
        width: int,
        bottleneck: bool,
        inflated: bool,
        projected: bool,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(feature_dim=8 * width * (4 if bottleneck else 1), checkpointing=checkpointing)
        network = ResNet(
            block=ResNetBottleneck if bottleneck else ResNetBlock,
            layers=list(layers),
            block_inplanes=[width * factor for factor in (1, 2, 4, 8)],
            n_input_channels=3 if inflated else 1,
            conv1_t_size=(3, 7, 7) if inflated else 7,  # type: ignore[arg-type]
            conv1_t_stride=(1, 2, 2) if inflated else 2,  # type: ignore[arg-type]
            shortcut_type="B" if projected else "A",
            feed_forward=False,
            bias_downsample=False,
        )
        self.inflated = inflated
        self.conv1, self.bn1, self.act, self.maxpool = network.conv1, network.bn1, network.act, network.maxpool
        self.layer1, self.layer2 = network.layer1, network.layer2
        self.layer3, self.layer4 = network.layer3, network.layer4
        if not projected:
            for stage in self.parts()[2:]:
                _pass_gradient(stage)

    def parts(self) -> list[nn.Module | Sequence[nn.Module]]:
        """The stem and the four stages."""
        return [[self.conv1, self.bn1], self.layer1, self.layer2, self.layer3, self.layer4]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Features [B, feature_dim] of images [B, 1, D, H, W]."""
        hidden = self.maxpool(self.act(self.bn1(self._stem(image))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            hidden = self._run(stage, hidden)
        return hidden.mean(dim=(2, 3, 4))

    def _stem(self, image: torch.Tensor) -> torch.Tensor:
        if not self.inflated:
            convolved: torch.Tensor = self.conv1(image)
            return convolved
        # Three equal channels are one channel under the summed kernel, in a third of the time and memory.
        kernel = self.conv1.weight.sum(dim=1, keepdim=True)
        return functional.conv3d(
            image.permute(0, 1, 4, 2, 3), kernel, stride=self.conv1.stride, padding=self.conv1.padding
        )


class PaddedShortcut(nn.Module):
    """Every second voxel, and zeros in the place of the channels that are new (He et al., CVPR 2016, type A).

    The release detaches it, which keeps the gradient from the stages below; values are the same.

    Args:
        channels: Channels that come out.
        stride: Step in all axes.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """The shortcut [B, channels, D / stride, H / stride, W / stride]."""
        kept = hidden[:, :, :: self.stride, :: self.stride, :: self.stride]
        return functional.pad(kept, (0, 0, 0, 0, 0, 0, 0, self.channels - kept.shape[1]))


def _pass_gradient(stage: nn.Module | Sequence[nn.Module]) -> None:
    assert isinstance(stage, nn.Sequential)
    block = stage[0]
    assert isinstance(block, ResNetBlock)
    block.downsample = PaddedShortcut(block.conv2.out_channels, int(block.stride))
