"""Fusion of phases: any subset, whatever the absent ones hold."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.core.errors import ModelError
from lightning_modules.core.optimization import OptimizerConfig
from lightning_modules.downstream.classification import Classification
from lightning_modules.networks.image.encoders import EncoderConfig
from lightning_modules.networks.image.phases import PhaseFusion, drop_phases

AVAILABLE = torch.tensor([[True, True, False, True], [False, True, False, False], [True, True, True, True]])


def _module(kind: str, **options: object) -> Classification:
    torch.manual_seed(0)
    settings = {"hidden": 0, "dropout": 0.0, "fusion": kind, **options}
    module = Classification(
        encoder=EncoderConfig(width=4, depth=10),
        class_counts=[5, 5],
        contract={"grid": [8, 12, 12]},
        optimizer=OptimizerConfig(),
        **settings,
    )  # type: ignore[arg-type]
    for parameter in module.fusion.parameters():
        torch.nn.init.normal_(parameter)
    return module.eval()


@pytest.mark.parametrize("kind", ["mean", "attention"])
def test_absent_phases_never_enter(kind: str) -> None:
    module, image = _module(kind), torch.rand(3, 4, 1, 8, 12, 12)
    plain = module(image, AVAILABLE)
    other = image.clone()
    other[~AVAILABLE] = float("nan")
    assert torch.equal(module(other, AVAILABLE), plain)


@pytest.mark.parametrize("kind", ["mean", "attention"])
def test_the_order_of_phases_does_not_matter(kind: str) -> None:
    module, image = _module(kind), torch.rand(3, 4, 1, 8, 12, 12)
    order = torch.tensor([2, 0, 3, 1])
    phase = torch.arange(4).expand(3, 4)
    torch.testing.assert_close(
        module(image[:, order], AVAILABLE[:, order], phase[:, order]), module(image, AVAILABLE, phase)
    )


@pytest.mark.parametrize("kind", ["mean", "attention"])
def test_one_phase_is_its_own_prediction(kind: str) -> None:
    module, image = _module(kind), torch.rand(3, 4, 1, 8, 12, 12)
    single = module.head(module.encoder(image[:, 1]))
    only = torch.zeros(3, 4, dtype=torch.bool)
    only[:, 1] = True
    torch.testing.assert_close(module(image, only), single)
    torch.testing.assert_close(module(image, AVAILABLE)[1], single[1])


def test_attention_starts_as_the_mean_and_learns() -> None:
    feature, output = torch.randn(8, 6), torch.randn(8, 2)
    mean, attention = PhaseFusion("mean", 6), PhaseFusion("attention", 6)
    torch.testing.assert_close(attention(feature, output, AVAILABLE), mean(feature, output, AVAILABLE))
    attention(feature, output, AVAILABLE).square().sum().backward()
    assert float(attention.score.weight.grad.abs().sum()) > 0
    assert float(attention.phase.weight.grad.abs().sum()) > 0


def test_dropped_phases_are_available_ones_and_never_all() -> None:
    available = AVAILABLE.repeat(500, 1)
    torch.manual_seed(0)
    kept = drop_phases(available, 0.4)
    assert not (kept & ~available).any()
    assert kept.any(dim=1).all()
    full = kept[2::3].float().mean(dim=0)  # of four: 0.6, and a little more because one is always kept
    assert ((full > 0.55) & (full < 0.7)).all()
    assert torch.equal(drop_phases(available, 0.0), available)


def test_phases_are_dropped_in_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    module = _module("mean", phase_dropout=0.9)
    seen: list[int] = []
    monkeypatch.setattr(module.encoder, "forward", lambda image: seen.append(len(image)) or torch.zeros(len(image), 32))
    image = torch.rand(3, 4, 1, 8, 12, 12)
    module(image, AVAILABLE)
    module.train()(image, AVAILABLE)
    assert seen[0] == 8
    assert 3 <= seen[1] < 8


def test_attention_on_single_phases_is_refused() -> None:
    with pytest.raises(ModelError, match=r"set data\.init_args\.phases=all"):
        _module("attention")(torch.rand(2, 1, 8, 12, 12))
    with pytest.raises(ModelError, match="choose one of mean, attention"):
        PhaseFusion("max", 4)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"expected a probability in \[0, 1\)"):
        _module("mean", phase_dropout=1.0)
