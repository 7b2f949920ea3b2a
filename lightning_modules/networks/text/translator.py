"""The output layer of a cut language model: its last states translated into those of the whole model."""

from __future__ import annotations

import torch
from torch import nn

from lightning_modules.core.distributed import sum_over_ranks
from lightning_modules.core.errors import ModelError

_RIDGE = 0.01


class Translation:
    """Affine map of a cut model's states to the whole model's, by ridge regression over the tokens of texts.

    A language model cut after its first layers is none: its output layer reads the states of the last layer, and the
    cross-entropy over them is far above that of a guess. One affine map mends most of it (the tuned lens, Belrose et
    al., arXiv 2303.08112, there found by gradient descent, here in closed form).

    Args:
        dim: Dimensions of a state.
        device: Where sums are kept.
    """

    def __init__(self, dim: int, device: torch.device | str) -> None:
        self._count = torch.zeros(1, dtype=torch.float64, device=device)
        self._sums = torch.zeros(2, dim, dtype=torch.float64, device=device)
        self._squares = torch.zeros(2, dim, dim, dtype=torch.float64, device=device)

    def add(self, cut: torch.Tensor, whole: torch.Tensor) -> None:
        """States [N, dim] of the same N tokens in both models."""
        first, second = cut.double(), whole.double()
        self._count += len(first)
        self._sums += torch.stack([first.sum(dim=0), second.sum(dim=0)])
        self._squares += torch.stack([first.T @ first, first.T @ second])

    def write(self, layer: nn.Linear) -> None:
        """Put the map of the tokens of all ranks into a layer.

        Raises:
            ModelError: if there are not more tokens than dimensions.
        """
        count, sums, squares = (sum_over_ranks(part) for part in (self._count, self._sums, self._squares))
        dim = len(sums[0])
        if float(count) <= dim:
            raise ModelError(
                f"The translation of the cut base was to be found from {int(count)} tokens of {dim} dimensions; "
                f"expected more than {dim}: raise model.init_args.translator_batches."
            )
        first, second = sums / count
        spread = squares[0] - count * first[:, None] * first[None, :]
        common = squares[1] - count * first[:, None] * second[None, :]
        ridge = _RIDGE * spread.diagonal().mean() * torch.eye(dim, dtype=spread.dtype, device=spread.device)
        weight = torch.linalg.solve(spread + ridge, common)
        with torch.no_grad():
            layer.weight.copy_(weight.T)
            layer.bias.copy_(second - first @ weight)


def identity(dim: int, device: torch.device | str) -> nn.Linear:
    """A layer float32 [dim to dim] that changes nothing, frozen."""
    layer = nn.Linear(dim, dim, device=device)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer.requires_grad_(False)
