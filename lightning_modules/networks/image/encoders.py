"""3D image encoders behind one configuration."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from monai.networks.nets import ResNet
from monai.networks.nets.resnet import ResNetBlock, ResNetBottleneck
from torch import nn

from lightning_modules.core.errors import ModelError
from lightning_modules.core.plain import read_config
from lightning_modules.networks.image.published.build import build_published
from lightning_modules.networks.image.published.releases import RELEASES
from lightning_modules.networks.image.recompute import recomputed
from lightning_modules.networks.image.regions import RegionEncoder


@dataclass(frozen=True)
class EncoderConfig:
    """Which encoder, and how large.

    Args:
        network: Name in `NETWORKS`; a published one has the size of its release.
        depth: Number of layers of a residual network, 10, 18, 34 or 50.
        width: Channels of the first stage.
        deep_width: Channels of the second stage, twice as many in each later one; 2 x width when left out. On a coarse
            grid most of the time goes into stem and first stage, and wide later stages cost little. The feature has
            4 x deep_width (16 x deep_width at depth 50) dimensions.
        stem_size: Edge of the first kernel.
        stem_stride: Stride of the first convolution in all axes; 2 is six times faster than MONAI's default of 1.
        stem_pool: Whether a max-pooling of stride 2 follows it; on a coarse grid it takes small lesions away.
        norm: `batch`, or `group` (8 groups, Wu and He, ECCV 2018), which does not depend on the other samples of the
            batch, their phases and their number.
        stem_norm: Normalisation after the first convolution; `instance` takes the contrast phase's overall brightness
            away image by image, which steadies the statistics of the layers behind it in small batches.
        channels_last: Keep activations channels-last, up to twice as fast for narrow networks on a CPU.
        checkpointing: Recompute the activations of each residual stage in the backward pass instead of keeping them.
        region_width: Channels of the finest feature map of `regions`; twice and four times as many on the coarser ones.
        patch: Voxels that enter `regions` as one, D x H x W: the step of its finest feature map.
        token_dim: Length of a region's token, of `regions`.
        region_dim: Length of the learned part of the feature of `regions`; the lesion's size and place stand beside it.
        phase_dropout: Probability with which `regions` loses a phase of a visit in training; one is always kept.
        window_hu: The window that [0, 1] of the image stands for, of `regions`, which reads HU; the contract's own.
        compile: Compile the network with torch.compile at its first call of each shape; names of weights stay as they
            are. No gain was measured on a CPU.
    """

    network: str = "resnet"
    depth: int = 18
    width: int = 64
    deep_width: int | None = None
    stem_size: int = 7
    stem_stride: int = 2
    stem_pool: bool = True
    norm: Literal["batch", "group"] = "batch"
    stem_norm: Literal["batch", "instance"] = "batch"
    channels_last: bool = True
    checkpointing: bool = False
    region_width: int = 32
    patch: tuple[int, int, int] = (2, 2, 2)
    token_dim: int = 32
    region_dim: int = 32
    phase_dropout: float = 0.2
    window_hu: tuple[float, float] = (-200.0, 300.0)
    compile: bool = False

    def __post_init__(self) -> None:
        # YAML and checkpoints give lists; equality wants tuples of one type.
        object.__setattr__(self, "patch", tuple(int(value) for value in self.patch))
        object.__setattr__(self, "window_hu", tuple(float(value) for value in self.window_hu))
        if self.stem_size < 1 or self.stem_size % 2 == 0:
            raise ModelError(f"encoder.stem_size={self.stem_size} was found; expected an odd number of voxels.")
        if min(self.widths) < 1:
            raise ModelError(f"Stages of {self.widths} channels were asked for; expected at least 1 in each.")

    @property
    def widths(self) -> list[int]:
        """Channels of the four stages."""
        second = 2 * self.width if self.deep_width is None else self.deep_width
        return [self.width, second, 2 * second, 4 * second]

    @classmethod
    def of(cls, content: EncoderConfig | Mapping[str, Any]) -> EncoderConfig:
        """The configuration itself, or read from the plain data that a checkpoint holds.

        Raises:
            ModelError: if a field is unknown.
        """
        return read_config(cls, content, "Encoder configuration")


_RESNETS: dict[int, tuple[type[nn.Module], list[int], int]] = {
    10: (ResNetBlock, [1, 1, 1, 1], 1),
    18: (ResNetBlock, [2, 2, 2, 2], 1),
    34: (ResNetBlock, [3, 4, 6, 3], 1),
    50: (ResNetBottleneck, [3, 4, 6, 3], 4),
}


_GROUPS = 8


class ResNetEncoder(nn.Module):
    """MONAI's 3D residual network up to its pooled feature.

    Shortcuts are projections (type B): the parameter-free type A of the reference detaches its input where channels
    grow, which blocks the gradient.

    Args:
        config: Depth, width and stem.

    Raises:
        ModelError: if there is no residual network of that depth.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        if config.depth not in _RESNETS:
            raise ModelError(
                f"A residual network of depth {config.depth} was asked for; choose one of {list(_RESNETS)}."
            )
        block, layers, expansion = _RESNETS[config.depth]
        self.feature_dim = config.widths[-1] * expansion
        self.channels_last, self.checkpointing = config.channels_last, config.checkpointing
        self.network = ResNet(
            block=block,  # type: ignore[arg-type]
            layers=layers,
            block_inplanes=config.widths,
            spatial_dims=3,
            n_input_channels=1,
            conv1_t_size=config.stem_size,
            conv1_t_stride=config.stem_stride,
            no_max_pool=not config.stem_pool,
            shortcut_type="B",
            feed_forward=False,
        )
        if config.norm == "group":
            _group_normalized(self.network)
        if config.stem_norm == "instance":
            self.network.bn1 = nn.InstanceNorm3d(config.width, affine=True)
        if config.channels_last:
            self.network = self.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """The parameters from the stem to the last stage, for learning rates that decay towards the stem."""
        network = self.network
        stem = [*network.conv1.parameters(), *network.bn1.parameters()]
        stages = (network.layer1, network.layer2, network.layer3, network.layer4)
        return [stem, *(list(stage.parameters()) for stage in stages)]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Features [B, feature_dim] of images [B, 1, D, H, W] in [0, 1]."""
        if self.channels_last:
            image = image.contiguous(memory_format=torch.channels_last_3d)
        if self.checkpointing and self.training and torch.is_grad_enabled():
            return self._recomputed(image)
        features: torch.Tensor = self.network(image)
        return features

    def feature_map(self, image: torch.Tensor) -> torch.Tensor:
        """Features before pooling, [B, feature_dim, d, h, w], of images [B, 1, D, H, W] in [0, 1]."""
        if self.channels_last:
            image = image.contiguous(memory_format=torch.channels_last_3d)
        network = self.network
        hidden: torch.Tensor = network.act(network.bn1(network.conv1(image)))
        if not network.no_max_pool:
            hidden = network.maxpool(hidden)
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
            hidden = stage(hidden)
        return hidden

    def _recomputed(self, image: torch.Tensor) -> torch.Tensor:
        """The same as the network's own forward pass, with one checkpoint per stage."""
        network = self.network
        hidden: torch.Tensor = network.act(network.bn1(network.conv1(image)))
        if not network.no_max_pool:
            hidden = network.maxpool(hidden)
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
            hidden = recomputed(stage, hidden)
        return network.avgpool(hidden).flatten(1)


def _group_normalized(module: nn.Module) -> None:
    """Put a group normalisation in the place of every batch normalisation; MONAI's own `norm` changes the stem only."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm3d):
            setattr(module, name, nn.GroupNorm(_GROUPS, child.num_features))
        else:
            _group_normalized(child)


class NoEncoder(nn.Module):
    """Stands where a baseline reads the tables of the cohort and no image.

    Args:
        config: Not used.
    """

    feature_dim = 1

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Refused.

        Raises:
            ModelError: always, since there is nothing that could see an image.
        """
        raise ModelError("A baseline of clinical variables was given images; choose an encoder that reads them.")


def _published(name: str, config: EncoderConfig) -> nn.Module:
    return build_published(name, checkpointing=config.checkpointing)


NETWORKS: dict[str, Callable[[EncoderConfig], nn.Module]] = {
    "resnet": ResNetEncoder,
    "regions": RegionEncoder,
    "none": NoEncoder,
    **{name: partial(_published, name) for name in RELEASES},
}
"""Every encoder by name; each has `feature_dim` and maps [B, 1, D, H, W] to [B, feature_dim], or one that joins phases
[B, 4, D, H, W]."""


def joins_phases(encoder: object) -> bool:
    """Whether an encoder, or its class, reads all contrast phases of a visit as the channels of one image."""
    return bool(getattr(encoder, "joins_phases", False))


def build_encoder(config: EncoderConfig) -> nn.Module:
    """The network that a configuration names, with random weights.

    Raises:
        ModelError: if the name is unknown, with the names there are, or if nothing here can compile for `compile`.
    """
    if config.network not in NETWORKS:
        raise ModelError(f"Network {config.network!r} was asked for; choose one of {sorted(NETWORKS)}.")
    encoder = NETWORKS[config.network](config)
    if config.compile:
        _require_compiler()
        encoder.compile()  # in place: a wrapper would put `_orig_mod.` before the name of every weight
    return encoder


def _require_compiler() -> None:
    """Refuse at once what torch.compile would refuse at the first step: its code needs the system's C++ compiler."""
    name = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(name) is None:
        raise ModelError(
            f"The encoder is to be compiled and the C++ compiler {name} was not found; install it, name another one in "
            "CXX, or set encoder.compile to false."
        )
