"""A training step never asks the device for a value: here tensors have none, and asking is an error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from datamodules.augmentation import AugmentationConfig, VolumeAugmentation, module
from datamodules.volumes.contract import ABSENT_HU, PreprocessingContract, channels_there
from lightning_modules.losses.attribute_loss import TaskWeighting
from lightning_modules.losses.cox import RiskMemory
from lightning_modules.networks.image import hounsfield
from lightning_modules.networks.image.encoders import EncoderConfig
from lightning_modules.networks.text.tokens import predicting, shifted
from tests.lightning_modules.downstream import test_survival as survival
from tests.lightning_modules.pretrain import test_alignment as alignment
from tests.lightning_modules.pretrain import test_attributes as attributes

# Parameters without values cannot be brought into another order of memory.
PLAIN = EncoderConfig(width=16, depth=10, norm="group", stem_pool=False, channels_last=False)
REGIONS = EncoderConfig(
    network="regions", region_width=4, token_dim=6, region_dim=8, patch=(2, 2, 2), channels_last=False
)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    # Made from counts on the host, before any step.
    monkeypatch.setattr(
        "lightning_modules.pretrain.attributes.class_weights", lambda counts, _: torch.ones(len(counts))
    )
    with FakeTensorMode() as mode:
        yield mode


def _valueless(mode: FakeTensorMode, batch: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: mode.from_tensor(value) if isinstance(value, torch.Tensor) else value for name, value in batch.items()
    }


def test_asking_is_an_error_here(fake: FakeTensorMode) -> None:
    value = torch.rand(3)
    for ask in (lambda: bool(value.any()), lambda: value[value > 0], value.nonzero, value.sum().item):
        with pytest.raises(Exception, match=r"aten\.\w+"):
            ask()


BATCHES = {
    "survival": survival.make_batch(7),
    "attributes": attributes.make_batch(4),
    "alignment": alignment.make_batch(),
}


@pytest.mark.parametrize("risk_set", ["memory", "batch"])
def test_a_step_of_survival(fake: FakeTensorMode, risk_set: str) -> None:
    task = survival.make_module(risk_set=risk_set, encoder=PLAIN)
    if risk_set == "memory":
        task.memory = RiskMemory(torch.rand(12), torch.rand(12) > 0.5)
    task.training_step(_valueless(fake, BATCHES["survival"]), 0).backward()


@pytest.mark.parametrize("weighting", ["sum", "uncertainty", "gradient"])
def test_a_step_of_attribute_pretraining(fake: FakeTensorMode, weighting: str) -> None:
    task = attributes.make_module(weighting=weighting, encoder=PLAIN)
    assert isinstance(task.weighting, TaskWeighting)
    task.training_step(_valueless(fake, BATCHES["attributes"]), 0).backward()


def test_a_step_with_anatomy(fake: FakeTensorMode, monkeypatch: pytest.MonkeyPatch) -> None:
    # How many voxels lie in any region is asked, since nine tenths of them need no statistics: the one question of a
    # step.
    def everywhere(share: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.arange(share.shape[2], device=share.device).expand(len(share), -1)
        return index, torch.ones_like(index, dtype=share.dtype)

    monkeypatch.setattr(hounsfield, "_inside", everywhere)
    task = attributes.make_module(encoder=REGIONS, anatomy_weight=1.0)
    image = torch.rand(4, 4, 8, 12, 12)
    batch = {
        **BATCHES["attributes"],
        "image": image,
        "anatomy": torch.rand(4, 5, 8, 12, 12).softmax(1),
        "mask_known": torch.tensor([True, True, False, True]),
        "sinus_known": torch.tensor([True, False, False, True]),
    }
    task.training_step(_valueless(fake, batch), 0).backward()


@pytest.mark.parametrize("loss", ["infonce", "siglip", "knowledge"])
def test_a_step_of_alignment(fake: FakeTensorMode, loss: str) -> None:
    task = alignment.make_module(loss=loss, encoder=PLAIN)
    task.training_step(_valueless(fake, BATCHES["alignment"]), 0).backward()


def test_the_states_that_predict_tokens(fake: FakeTensorMode) -> None:
    with torch._subclasses.fake_tensor.unset_fake_temporarily():
        real = torch.tensor([[-100, 5, -100, 7], [-100, -100, 2, -100]])
        places = predicting(real)
    moved = _valueless(fake, {"labels": real, "places": places})
    states, tokens, _ = shifted(torch.rand(2, 4, 3), moved["labels"], moved["places"])
    assert (states.shape, tokens.shape) == ((3, 3), (3,))


def test_joined_phases_on_the_way_to_the_network(fake: FakeTensorMode, monkeypatch: pytest.MonkeyPatch) -> None:
    contract = PreprocessingContract(grid=(8, 12, 12))
    with torch._subclasses.fake_tensor.unset_fake_temporarily():
        stored = torch.zeros(2, 4, 8, 12, 12, dtype=torch.int16)
        stored[0, 2], stored[1, 0] = ABSENT_HU, ABSENT_HU
        there = channels_there(stored)
    augmentation = VolumeAugmentation(contract, AugmentationConfig(crop=(8, 10, 10)))
    moved = _valueless(fake, {"stored": stored, "there": there, "seed": torch.arange(2)})
    monkeypatch.setattr(module, "vary_", lambda image, parameters: image)  # looks at gamma, on a CPU alone
    assert augmentation(moved["stored"], moved["seed"], moved["there"]).shape == (2, 4, 8, 10, 10)
    assert augmentation.evaluate(moved["stored"], moved["there"]).shape == (2, 4, 8, 10, 10)
