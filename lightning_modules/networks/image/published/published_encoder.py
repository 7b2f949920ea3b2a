"""What every published encoder offers, beside its own architecture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lightning_modules.networks.image.recompute import recomputed


class PublishedEncoder(nn.Module, ABC):
    """An encoder whose architecture, names of weights and features are those of its release.

    Args:
        feature_dim: Dimensions of a feature.
        checkpointing: Recompute the activations of each part in the backward pass instead of keeping them; may be
            switched at any time.
    """

    def __init__(self, feature_dim: int, checkpointing: bool) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.checkpointing = checkpointing

    @abstractmethod
    def parts(self) -> Sequence[nn.Module | Sequence[nn.Module]]:
        """The parts of the network from the stem to the last, which together hold every parameter once."""

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """The parameters from the stem to the last block, for learning rates that decay towards the stem.

        Every parameter is in one group, whether it is trained or not.
        """
        groups = []
        for part in self.parts():
            modules = [part] if isinstance(part, nn.Module) else part
            groups.append([parameter for module in modules for parameter in module.parameters()])
        return groups

    def _run(self, part: nn.Module, *inputs: Any) -> torch.Tensor:
        """One part of the network, its activations kept or not."""
        if self.checkpointing and self.training and torch.is_grad_enabled():
            return recomputed(part, *inputs)
        hidden: torch.Tensor = part(*inputs)
        return hidden
