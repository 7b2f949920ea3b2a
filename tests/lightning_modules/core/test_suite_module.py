"""Encoders, schedule and loss."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from lightning_modules.core.errors import ModelError
from lightning_modules.core.optimization import OptimizerConfig, decay_groups, warmup_cosine
from lightning_modules.core.suite_module import CHECKPOINT_KEY, check_checkpoint
from lightning_modules.downstream.classification import Classification
from lightning_modules.networks.image.encoders import EncoderConfig, build_encoder

CONTRACT = {"grid": [8, 12, 12], "region": "kidney"}
SMALL = EncoderConfig(width=4, depth=10)


def _module(**options: object) -> Classification:
    torch.manual_seed(0)
    return Classification(encoder=SMALL, class_counts=[6, 2], contract=CONTRACT, optimizer=OptimizerConfig(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("depth", "features"), [(10, 64), (18, 64), (34, 64), (50, 256)])
def test_feature_dimension_is_what_it_says(depth: int, features: int) -> None:
    encoder = build_encoder(EncoderConfig(width=8, depth=depth)).eval()
    assert encoder.feature_dim == features
    assert encoder(torch.rand(2, 1, 8, 12, 12)).shape == (2, features)


@pytest.mark.parametrize(("depth", "features"), [(10, 48), (50, 192)])
def test_later_stages_may_be_wider_than_the_first(depth: int, features: int) -> None:
    config = EncoderConfig(width=4, deep_width=12, stem_size=5, depth=depth)
    assert config.widths == [4, 12, 24, 48]
    encoder = build_encoder(config).eval()
    assert encoder(torch.rand(2, 1, 8, 12, 12)).shape == (2, features)
    assert encoder.network.conv1.weight.shape == (4, 1, 5, 5, 5)  # type: ignore[union-attr]


@pytest.mark.parametrize("wrong", [{"stem_size": 4}, {"stem_size": 0}, {"deep_width": 0}, {"width": 0}])
def test_sizes_that_no_network_has_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ModelError, match="expected"):
        EncoderConfig(**wrong)


def test_channels_last_gives_the_same_features() -> None:
    torch.manual_seed(0)
    last = build_encoder(EncoderConfig(width=8, channels_last=True)).eval()
    first = build_encoder(EncoderConfig(width=8, channels_last=False)).eval()
    first.load_state_dict(last.state_dict())
    image = torch.rand(2, 1, 16, 16, 16)
    torch.testing.assert_close(last(image), first(image), rtol=1e-4, atol=1e-5)


def test_every_parameter_receives_a_gradient() -> None:
    """The parameter-free shortcut of the published code detaches its input; ours must not."""
    module = _module(dropout=0.0)
    module(torch.rand(4, 1, 16, 16, 16)).square().sum().backward()
    assert [name for name, value in module.named_parameters() if value.grad is None] == []


def test_missing_targets_contribute_neither_loss_nor_gradient() -> None:
    module = _module(dropout=0.0).eval()
    image = torch.rand(4, 1, 8, 12, 12)
    target = torch.tensor([0, 1, -100, -100])
    loss = module._loss(module(image), target)
    torch.testing.assert_close(loss, module._loss(module(image[:2]), target[:2]))
    image.requires_grad_()
    module._loss(module(image), target).backward()
    assert image.grad is not None
    assert float(image.grad[2:].abs().sum()) == 0.0


def test_wrong_encoders_list_the_choices() -> None:
    with pytest.raises(
        ModelError,
        match=r"choose one of \['ct_clip', 'ct_fm', 'merlin', 'merlin_astra', 'none', 'regions', 'renalclip', 'res",
    ):
        build_encoder(EncoderConfig(network="resnt"))
    with pytest.raises(ModelError, match=r"choose one of \[10, 18, 34, 50\]"):
        build_encoder(EncoderConfig(depth=19))
    with pytest.raises(ModelError, match="unknown fields"):
        EncoderConfig.of({"wdith": 3})


def test_schedule_rises_to_the_peak_and_falls_to_the_end() -> None:
    factors = [warmup_cosine(step, 100, 0.1) for step in range(101)]
    assert factors[9] == 1.0
    assert all(a < b for a, b in pairwise(factors[:10]))
    assert all(a >= b for a, b in pairwise(factors[10:]))
    assert factors[100] == pytest.approx(0.0, abs=1e-12)
    assert warmup_cosine(0, 50, 0.0) == 1.0
    assert warmup_cosine(500, 50, 0.1, final=0.2) == pytest.approx(0.2)
    with pytest.raises(ModelError, match="expected lr > 0"):
        OptimizerConfig(lr=0)


def test_norms_and_biases_do_not_decay() -> None:
    module = _module()
    decayed, spared = decay_groups([module], 0.1)
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert all(parameter.ndim == 1 for parameter in spared["params"])
    assert spared["weight_decay"] == 0.0
    assert len(decayed["params"]) + len(spared["params"]) == len(list(module.parameters()))


def test_hyper_parameters_rebuild_the_module_from_plain_data() -> None:
    module = _module(hidden=0)
    again = Classification(**module.hparams)
    again.load_state_dict(module.state_dict())
    assert "weight" not in module.state_dict()  # a different label fraction must not be carried over


def test_a_checkpoint_is_stamped_and_checked() -> None:
    module, checkpoint = _module(), {}
    module.on_save_checkpoint(checkpoint)
    module.on_load_checkpoint(checkpoint)
    region = {CHECKPOINT_KEY: {**checkpoint[CHECKPOINT_KEY], "contract": {**CONTRACT, "region": "lesion"}}}
    module.on_load_checkpoint(region)
    with pytest.raises(ModelError, match="not written by this suite"):
        check_checkpoint({"state_dict": {}}, module.class_path(), CONTRACT)
