"""The projection keeps what facts change and drops what words change."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from lightning_modules.core.errors import ModelError
from lightning_modules.networks.text.projection import Scatter


def pairs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Facts along axis 0, words along all others, most of all along axis 1."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([0.1, 5.0, 1.0, 1.0, 1.0])
    base = torch.randn(60, 5, generator=generator) + 4
    first, second = (base + torch.randn(60, 5, generator=generator) * scale for _ in range(2))
    owners = torch.arange(60).repeat_interleave(2)
    change = torch.randn(120, 5, generator=generator) * torch.tensor([2.0, 0.3, 0.3, 0.3, 0.3])
    return first, second, second[owners] + change, owners


def filled(parts: int = 1) -> Scatter:
    first, second, negatives, owners = pairs()
    scatter = Scatter(5, torch.device("cpu"))
    for chunk in torch.arange(60).chunk(parts):
        of_chunk = (owners >= chunk[0]) & (owners <= chunk[-1])
        scatter.add(first[chunk], second[chunk], negatives[of_chunk], owners[of_chunk] - chunk[0])
    return scatter


def test_the_fact_decides_after_projection() -> None:
    first, second, negatives, owners = pairs(1)
    found = filled().projection(1)[0]
    assert float(found.abs().argmax()) == 0
    facts, words = second[owners] - negatives, first - second
    before = facts.square().sum(dim=1).mean() / words.square().sum(dim=1).mean()
    after = (facts @ found).square().mean() / (words @ found).square().mean()
    assert float(before) < 0.5
    assert float(after) > 5


def test_it_is_the_generalised_eigenproblem_of_scipy() -> None:
    first, second, negatives, owners = (part.double().numpy() for part in pairs())
    words, facts = first - second, second[owners.astype(int)] - negatives
    within = words.T @ words / len(words)
    mean = np.concatenate([first, second]).mean(axis=0)
    within = within + 0.3 * np.trace(within) / 5 * np.eye(5) + 100 * np.outer(mean, mean)
    values, vectors = scipy.linalg.eigh(facts.T @ facts / len(facts), within)
    expected = (vectors[:, -3:] * np.sqrt(values[-3:])).T
    found = filled().projection(3).double().numpy()
    sign = np.sign((found * expected).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(found * sign, expected, rtol=1e-4, atol=1e-5)


def test_it_does_not_depend_on_the_batches() -> None:
    torch.testing.assert_close(filled(1).projection(3).abs(), filled(4).projection(3).abs(), rtol=1e-5, atol=1e-6)


def test_what_cannot_be_found_is_refused() -> None:
    with pytest.raises(ModelError, match="A projection to 6 of 5 dimensions"):
        filled().projection(6)
    with pytest.raises(ModelError, match="from 0 pairs and 0 changed facts"):
        Scatter(5, torch.device("cpu")).projection(2)
