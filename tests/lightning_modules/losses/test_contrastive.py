"""Contrastive losses: equal to their formulas, whatever the chunk, and kind to reports that say the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from lightning_modules.core.errors import ModelError
from lightning_modules.losses.contrastive import info_nce, knowledge_info_nce
from lightning_modules.losses.knowledge import Knowledge
from lightning_modules.losses.sigmoid import sigmoid_loss

PAIRS, DIM, MISSING = 8, 5, -100
SCALE, BIAS = 8.0, -3.0


def embeddings(pairs: int = PAIRS, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = torch.randn(2, pairs, DIM, generator=generator, dtype=dtype)
    image, text = functional.normalize(made, dim=2)
    return image.requires_grad_(True), text.clone().requires_grad_(True)


def reports() -> tuple[torch.Tensor, torch.Tensor]:
    """0 and 3 are identical, 1 and 4 state the same; 2 conflicts with 1; 5 is a part of all three, 6 states nothing.

    7 shares one of its two statements with 2 and with 5, and contradicts 1 and 4.
    """
    report_id = torch.tensor([0, 1, 2, 0, 4, 5, 6, 7])
    attributes = torch.tensor(
        [
            [0, 0, MISSING, MISSING],
            [1, 2, 0, 1],
            [1, 2, MISSING, 0],
            [0, 0, MISSING, MISSING],
            [1, 2, 0, 1],
            [1, 2, 0, MISSING],
            [MISSING] * 4,
            [MISSING, MISSING, 0, 0],
        ]
    )
    return report_id, attributes


def scalars() -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (SCALE, BIAS))  # type: ignore[return-value]


def plain_info_nce(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    logits, target = scale * image @ text.T, torch.arange(len(image))
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


def plain_sigmoid(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    sign = 2 * torch.eye(len(image), dtype=image.dtype) - 1
    return -functional.logsigmoid(sign * (scale * image @ text.T + bias)).sum() / len(image)


def plain_knowledge(
    image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, report_id: torch.Tensor, attributes: torch.Tensor
) -> torch.Tensor:
    """The definition, pair by pair."""
    count = len(image)
    positive, ignored = torch.eye(count, dtype=torch.bool), torch.zeros(count, count, dtype=torch.bool)
    for i in range(count):
        for j in range(count):
            stated_i, stated_j = attributes[i] != MISSING, attributes[j] != MISSING
            both = stated_i & stated_j
            alike = int((attributes[i] == attributes[j])[both].sum())
            compatible = alike == int(both.sum()) > 0
            same = compatible and alike == int((stated_i | stated_j).sum())
            positive[i, j] |= bool(report_id[i] == report_id[j]) or same
            enough = alike >= 0.6 * min(int(stated_i.sum()), int(stated_j.sum()))
            ignored[i, j] = not positive[i, j] and compatible and enough
    total = torch.zeros((), dtype=image.dtype)
    for logits in (scale * image @ text.T, scale * text @ image.T):
        target = positive / positive.sum(dim=1, keepdim=True)
        log_probability = logits.masked_fill(ignored, float("-inf")).log_softmax(dim=1).masked_fill(ignored, 0.0)
        total = total + functional.kl_div(log_probability, target.to(image.dtype), reduction="sum")
    return total / (2 * count)


LOSSES: dict[str, tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]] = {
    "infonce": (
        lambda image, text, scale, bias, **how: info_nce(image, text, scale, **how),
        lambda image, text, scale, bias: plain_info_nce(image, text, scale),
    ),
    "siglip": (sigmoid_loss, plain_sigmoid),
    "knowledge": (
        lambda image, text, scale, bias, **how: knowledge_info_nce(
            image, text, scale, *reports(), ignore_from=0.6, **how
        ),
        lambda image, text, scale, bias: plain_knowledge(image, text, scale, *reports()),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_loss_and_gradients_are_those_of_the_formula(name: str, chunk: int) -> None:
    ours, theirs = LOSSES[name]
    inputs = (*embeddings(), *scalars())
    found, expected = ours(*inputs, chunk=chunk), theirs(*inputs)
    torch.testing.assert_close(found, expected)
    wanted = torch.autograd.grad(3 * expected, inputs, allow_unused=True)
    for ours_by, theirs_by in zip(torch.autograd.grad(3 * found, inputs, allow_unused=True), wanted, strict=True):
        if theirs_by is None:
            assert ours_by is None
        else:
            torch.testing.assert_close(ours_by, theirs_by)


@pytest.mark.parametrize("name", LOSSES)
def test_single_precision_is_kept_under_autocast(name: str) -> None:
    ours, theirs = LOSSES[name]
    image, text = embeddings()
    half = [value.detach().to(torch.bfloat16).requires_grad_(True) for value in (image, text)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = ours(*half, *scalars())
    exact = [value.detach().double() for value in half]
    torch.testing.assert_close(found, theirs(*exact, *scalars()).float(), rtol=1e-5, atol=1e-5)
    found.backward()
    assert half[0].grad is not None
    assert half[0].grad.dtype == torch.bfloat16


def test_knowledge_is_plain_info_nce_where_nothing_agrees() -> None:
    image, text = embeddings()
    scale, _ = scalars()
    attributes = torch.arange(PAIRS)[:, None].expand(-1, 2)  # every pair conflicts in both
    for stated in (attributes, torch.full_like(attributes, MISSING), None):
        inputs = (image, text, scale)
        found = knowledge_info_nce(*inputs, torch.arange(PAIRS), stated)
        expected = info_nce(*inputs)
        assert torch.equal(found, expected)
        pairs = zip(torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), strict=True)
        for ours, theirs in pairs:
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_knowledge_does_not_depend_on_the_order_of_a_batch() -> None:
    image, text = embeddings()
    scale, _ = scalars()
    report_id, attributes = reports()
    order = torch.tensor([4, 2, 6, 0, 5, 7, 1, 3])
    for chunk in (2, 100):
        first = knowledge_info_nce(image, text, scale, report_id, attributes, chunk=chunk)
        second = knowledge_info_nce(image[order], text[order], scale, report_id[order], attributes[order], chunk=chunk)
        torch.testing.assert_close(first, second)
        for by_first, by_second in zip(
            torch.autograd.grad(first, (image, text)), torch.autograd.grad(second, (image, text)), strict=True
        ):
            torch.testing.assert_close(by_first, by_second)


def test_normal_kidneys_are_not_pushed_apart() -> None:
    """Images and texts of normal kidneys in one place, those of a tumour opposite: nothing is left to be gained."""
    side = torch.tensor([1.0, 1.0, 1.0, -1.0], dtype=torch.float64)
    image = torch.stack([side, torch.zeros(4)], dim=1).requires_grad_(True)
    text = image.detach().clone().requires_grad_(True)
    scale = torch.tensor(100.0, dtype=torch.float64)
    report_id, attributes = torch.tensor([0, 0, 1, 2]), torch.tensor([[0, 0], [0, 0], [0, 0], [1, MISSING]])
    loss = knowledge_info_nce(image, text, scale, report_id, attributes)
    torch.testing.assert_close(loss, torch.zeros_like(loss))
    (gradient,) = torch.autograd.grad(loss, image)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))
    plain = info_nce(image, text, scale)
    assert float(plain.detach()) == pytest.approx(0.75 * float(torch.tensor(3.0).log()), rel=1e-6)


def test_the_relation_is_what_it_says() -> None:
    report_id, attributes = reports()
    positive, ignored = Knowledge(report_id, attributes, ignore_from=0.6).pairs(slice(0, PAIRS))
    assert positive.nonzero().tolist() == sorted([[i, i] for i in range(PAIRS)] + [[0, 3], [3, 0], [1, 4], [4, 1]])
    # Row 5 is contained in 1, 2 and 4 as far as they go together; row 7 shares half of its statements with 2 and 5.
    assert ignored.nonzero().tolist() == sorted([[1, 5], [2, 5], [4, 5], [5, 1], [5, 2], [5, 4]])
    looser = Knowledge(report_id, attributes, ignore_from=0.5).pairs(slice(0, PAIRS))[1]
    assert looser.nonzero().tolist() == sorted([*ignored.nonzero().tolist(), [2, 7], [7, 2], [5, 7], [7, 5]])


def test_bad_input_is_refused() -> None:
    image, text = embeddings()
    scale, bias = scalars()
    with pytest.raises(ModelError, match=r"expected \[n, d\] twice"):
        info_nce(image, text[:3], scale)
    with pytest.raises(ModelError, match="chunk of at least 1"):
        sigmoid_loss(image, text, scale, bias, chunk=0)
    with pytest.raises(ModelError, match="one report_id and one row"):
        knowledge_info_nce(image, text, scale, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ModelError, match=r"expected both in \(0, 1\]"):
        knowledge_info_nce(image, text, scale, *reports(), ignore_from=0.0)
