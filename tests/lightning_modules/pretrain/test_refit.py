"""The last layers of stage 1 fitted once more: what changes, and when."""

from __future__ import annotations

from typing import Any

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from datamodules.volumes.contract import ABSENT
from lightning_modules.core.errors import ModelError
from lightning_modules.core.optimization import OptimizerConfig
from lightning_modules.networks.image.encoders import EncoderConfig
from lightning_modules.pretrain.attributes import AttributePretraining
from lightning_modules.pretrain.refit import refit

COUNTS = {"lesion_present": {"no": 20, "yes": 30}, "pole": {"upper": 5, "interpolar": 9, "lower": 3}}
TINY = EncoderConfig(network="regions", region_width=4, token_dim=6, region_dim=8)


def test_a_refit_learns_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(3)
    layer, readings = nn.Linear(5, 3), torch.randn(300, 5)
    target = (readings @ torch.randn(5, 3)).argmax(dim=1)

    def loss(some: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(layer(some), wanted)

    before, state = loss(readings, target).item(), torch.get_rng_state()
    refit([layer], loss, readings, target, 1000)
    assert loss(readings, target).item() < 0.6 * before
    assert torch.equal(torch.get_rng_state(), state)
    assert layer.weight.grad is None


def _batches(count: int) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number in range(count):
        image = torch.rand(4, 8, 12, 12, generator=generator)
        image[3] = ABSENT
        attributes = torch.tensor([number % 2, number % 3])
        rows.append({"image": image, "phase": -1, "attributes": attributes, "kidney": number, "sample": number})
    return DataLoader(rows, batch_size=2)  # type: ignore[arg-type]


class _Watched(AttributePretraining):
    """Keeps its weights as they were before the last step's end and when validation begins."""

    before: dict[str, torch.Tensor]
    validated: dict[str, torch.Tensor]

    def _copy(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().clone() for name, value in self.named_parameters()}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.before = self._copy()
        super().on_train_batch_end(outputs, batch, batch_idx)

    def on_validation_start(self) -> None:
        self.validated = self._copy()


def _fit(epochs: int, steps: int) -> _Watched:
    torch.manual_seed(0)
    module = _Watched(TINY, COUNTS, {}, OptimizerConfig(), refit_steps=steps)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, _batches(8), _batches(4))
    return module


def test_trunk_and_heads_alone_change_behind_the_last_step_and_before_validation() -> None:
    module = _fit(2, 20)
    changed = {name for name, value in module.before.items() if not torch.equal(value, module.validated[name])}
    expected = {name for name in module.before if name.startswith(("encoder.trunk.", "heads."))}
    assert changed == expected
    assert module._read == []


def test_no_refit_without_steps() -> None:
    module = _fit(1, 0)
    assert all(torch.equal(value, module.validated[name]) for name, value in module.before.items())


def test_a_refit_of_an_encoder_without_regions_is_refused() -> None:
    with pytest.raises(ModelError, match=r"refit_steps=5 was found with encoder\.network=resnet"):
        AttributePretraining(EncoderConfig(depth=10, width=4), COUNTS, {}, OptimizerConfig(), refit_steps=5)
