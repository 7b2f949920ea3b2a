"""Masked multi-attribute cross-entropy: equal to torch's, and silent about what is not stated."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from lightning_modules.core.errors import ModelError
from lightning_modules.core.missing import MISSING
from lightning_modules.losses.attribute_loss import PaddedHeads, TaskWeighting, masked_cross_entropy
from lightning_modules.losses.balance import class_weights

SIZES = [2, 4, 3]


def _case(seed: int = 0, batch: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, sum(SIZES), generator=generator)
    target = torch.stack([torch.randint(0, size, (batch,), generator=generator) for size in SIZES], dim=1)
    target[torch.rand(target.shape, generator=generator) < 0.4] = MISSING
    return logits, target


@pytest.mark.parametrize("weighted", [False, True])
def test_each_attribute_is_torchs_cross_entropy(weighted: bool) -> None:
    logits, target = _case()
    weight = torch.ones(3, 4)
    if weighted:
        weight = torch.rand(3, 4, generator=torch.Generator().manual_seed(1)) + 0.2
    logits.requires_grad_(True)
    terms = masked_cross_entropy(PaddedHeads(SIZES)(logits), target, weight)
    expected = torch.stack(
        [
            functional.cross_entropy(part, target[:, number], weight[number, : part.shape[1]], ignore_index=MISSING)
            for number, part in enumerate(logits.split(SIZES, dim=1))
        ]
    )
    torch.testing.assert_close(terms.loss, expected)
    torch.testing.assert_close(terms.mean, expected.detach())
    (ours,) = torch.autograd.grad(terms.loss.sum(), logits, retain_graph=True)
    (theirs,) = torch.autograd.grad(expected.sum(), logits)
    torch.testing.assert_close(ours, theirs)
    padded = torch.zeros(len(logits), 3, 4)
    for number, part in enumerate(theirs.split(SIZES, dim=1)):
        padded[:, number, : part.shape[1]] = part
    torch.testing.assert_close(terms.residual, padded)


def test_what_is_not_stated_contributes_nothing() -> None:
    logits, target = _case()
    target[:, 1] = MISSING
    logits.requires_grad_(True)
    terms = masked_cross_entropy(PaddedHeads(SIZES)(logits), target, torch.ones(3, 4))
    assert terms.present.tolist() == [True, False, True]
    assert terms.loss[1] == 0
    (gradient,) = torch.autograd.grad(terms.loss.sum(), logits)
    assert torch.isfinite(gradient).all()
    assert (gradient[:, 2:6] == 0).all()
    unstated = target[:, 0] == MISSING
    assert (gradient[unstated, :2] == 0).all()
    changed = logits.detach().clone()
    changed[:, 2:6] += 100
    again = masked_cross_entropy(PaddedHeads(SIZES)(changed), target, torch.ones(3, 4))
    assert torch.equal(again.loss, terms.loss.detach())


@pytest.mark.parametrize("kind", ["sum", "uncertainty", "gradient"])
def test_an_empty_batch_is_finite(kind: str) -> None:
    logits = torch.randn(3, sum(SIZES), requires_grad=True)
    target = torch.full((3, 3), MISSING)
    weighting = TaskWeighting(3, kind)  # type: ignore[arg-type]
    terms = masked_cross_entropy(PaddedHeads(SIZES)(logits), target, torch.ones(3, 4))
    loss = weighting(terms, torch.randn(3, 4, 5))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_the_closed_form_norm_is_autograds() -> None:
    _, target = _case()
    generator = torch.Generator().manual_seed(3)
    feature = torch.randn(12, 5, generator=generator, requires_grad=True)
    head = torch.nn.Linear(5, sum(SIZES))
    padded = PaddedHeads(SIZES)
    terms = masked_cross_entropy(padded(head(feature)), target, torch.ones(3, 4))
    expected = [float(torch.autograd.grad(loss, feature, retain_graph=True)[0].norm()) for loss in terms.loss]
    weighting = TaskWeighting(3, "gradient")
    rows = head.weight[padded.index].masked_fill(padded.padding[..., None], 0.0)
    loss = weighting(terms, rows.detach())
    torch.testing.assert_close(weighting.norm, torch.tensor(expected))
    # Every attribute now pulls at the feature with the same strength.
    typical = sum(expected) / 3
    scaled = [float(value) * typical / norm for value, norm in zip(terms.loss, expected, strict=True)]
    assert float(loss.detach()) == pytest.approx(sum(scaled) / 3, rel=1e-5)


def test_uncertainty_weights_are_learned() -> None:
    logits, target = _case()
    weighting = TaskWeighting(3, "uncertainty")
    terms = masked_cross_entropy(PaddedHeads(SIZES)(logits), target, torch.ones(3, 4))
    weighting(terms, torch.zeros(3, 4, 5)).backward()
    gradient = weighting.log_variance.grad
    assert gradient is not None
    torch.testing.assert_close(gradient, (0.5 - terms.mean) / 3)


def test_class_weights_average_one_over_the_samples() -> None:
    counts = [90, 10]
    for balance in ("none", "root", "inverse"):
        weight = class_weights(counts, balance)  # type: ignore[arg-type]
        assert float((weight * torch.tensor([0.9, 0.1])).sum()) == pytest.approx(1.0)
    assert class_weights(counts, "inverse")[1] == pytest.approx(5.0)
    assert class_weights([0, 0, 0], "root").tolist() == [1, 1, 1]
    absent = class_weights([50, 0, 50], "inverse")
    assert absent[1] == absent[0] == 1.0


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ModelError, match="choose one of"):
        TaskWeighting(3, "best")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="two or more"):
        PaddedHeads([2, 1])
