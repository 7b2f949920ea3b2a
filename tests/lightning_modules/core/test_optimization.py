"""Learning rates that decay from the head towards the stem."""

from __future__ import annotations

import pytest
from torch import nn

from lightning_modules.core.errors import ModelError
from lightning_modules.core.optimization import OptimizerConfig, make_optimizer
from lightning_modules.networks.image.encoders import EncoderConfig, build_encoder
from lightning_modules.networks.image.published.build import build_published
from lightning_modules.networks.image.published.releases import RELEASES


def rates(module: nn.Module, config: OptimizerConfig, backbone: nn.Module | None) -> dict[int, float]:
    """Peak learning rate of every parameter."""
    made = make_optimizer(module, config, 100, backbone)["optimizer"]
    return {id(value): group["initial_lr"] for group in made.param_groups for value in group["params"]}


class Model(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(3, 2)


@pytest.mark.parametrize("name", ["resnet", *RELEASES])
def test_each_part_learns_slower_than_the_next(name: str) -> None:
    encoder = build_encoder(EncoderConfig(width=4, depth=10)) if name == "resnet" else build_published(name, small=True)
    model = Model(encoder)
    found = rates(model, OptimizerConfig(lr=0.1, layer_decay=0.5), encoder)
    assert len(found) == len(list(model.parameters()))
    parts = encoder.layer_groups()  # type: ignore[operator]
    for number, part in enumerate(parts):
        (rate,) = {found[id(value)] for value in part}
        assert rate == pytest.approx(0.1 * 0.5 ** (len(parts) - number))
    assert found[id(model.head.weight)] == 0.1
    slower = rates(model, OptimizerConfig(lr=0.1, backbone_lr=0.01, layer_decay=0.5), encoder)
    assert slower[id(parts[-1][0])] == pytest.approx(0.005)
    assert set(rates(model, OptimizerConfig(lr=0.1), encoder).values()) == {0.1}


def test_weight_decay_still_spares_vectors() -> None:
    encoder = build_encoder(EncoderConfig(width=4, depth=10))
    made = make_optimizer(Model(encoder), OptimizerConfig(layer_decay=0.9, weight_decay=0.3), 10, encoder)["optimizer"]
    for group in made.param_groups:
        assert group["weight_decay"] == (0.3 if group["params"][0].ndim > 1 else 0.0)
        assert len({value.ndim > 1 for value in group["params"]}) == 1


class Unfinished(nn.Linear):
    def layer_groups(self) -> list[list[nn.Parameter]]:
        return [[self.weight]]


@pytest.mark.parametrize(
    ("backbone", "message"),
    [(None, "has no backbone"), (nn.Linear(2, 2), "names no parts"), (Unfinished(2, 2), "do not hold each")],
)
def test_a_backbone_without_parts_is_refused(backbone: nn.Module | None, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make_optimizer(Model(backbone or nn.Identity()), OptimizerConfig(layer_decay=0.5), 10, backbone)


@pytest.mark.parametrize("value", [0.0, 1.1, -1.0])
def test_an_impossible_factor_is_refused(value: float) -> None:
    with pytest.raises(ModelError, match="layer_decay"):
        OptimizerConfig(layer_decay=value)
