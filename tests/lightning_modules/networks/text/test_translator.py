"""The translation of a cut base's states: found exactly where there is one, refused where there are too few tokens."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn

from lightning_modules.core.errors import ModelError
from lightning_modules.networks.text.translator import Translation, identity


def _states(tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    cut = torch.randn(tokens, 6, generator=generator) * torch.tensor([9.0, 3.0, 1.0, 0.5, 0.1, 1.0]) + 4.0
    whole = cut @ torch.randn(6, 6, generator=generator) - 7.0 + 0.3 * torch.randn(tokens, 6, generator=generator)
    return cut, whole


def test_it_is_the_ridge_regression_of_scikit_learn_over_all_parts() -> None:
    cut, whole = _states(500)
    found = Translation(6, "cpu")
    for first, second in zip(cut.split(170), whole.split(170), strict=True):
        found.add(first, second)
    layer = identity(6, "cpu")
    found.write(layer)
    spread = ((cut - cut.mean(dim=0)) ** 2).sum(dim=0).mean()
    expected = Ridge(alpha=0.01 * float(spread)).fit(cut.numpy(), whole.numpy())
    torch.testing.assert_close(layer.weight, torch.as_tensor(expected.coef_, dtype=torch.float32), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        layer.bias, torch.as_tensor(expected.intercept_, dtype=torch.float32), rtol=1e-4, atol=1e-3
    )


def test_too_few_tokens_are_refused_and_leave_the_layer() -> None:
    cut, whole = _states(6)
    found = Translation(6, "cpu")
    found.add(cut, whole)
    layer = identity(6, "cpu")
    with pytest.raises(ModelError, match="from 6 tokens of 6 dimensions"):
        found.write(layer)
    assert torch.equal(layer.weight, torch.eye(6))


def test_the_identity_changes_nothing_and_is_not_trained() -> None:
    states = torch.randn(4, 6)
    layer: nn.Linear = identity(6, "cpu")
    assert torch.equal(layer(states), states)
    assert not any(value.requires_grad for value in layer.parameters())
