"""Alignment that trains the text encoder along: the gradient of the full batch, its own rate, small checkpoints."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

from lightning_modules.core.errors import ModelError
from lightning_modules.core.optimization import OptimizerConfig, make_optimizer
from lightning_modules.core.suite_module import CHECKPOINT_KEY
from lightning_modules.networks.text.encoder import TextEncoderConfig
from lightning_modules.pretrain.joint_alignment import TextTowerAlignment
from tests.lightning_modules.pretrain.test_alignment import CONTRACT, SMALL
from tests.tiny_text import TEXTS, make_base, stir

COUNTS = {"lesion_present": {"no": 3, "yes": 5}, "pole": {"upper": 4, "lower": 2}}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("text") / "base")


def make_tower(base: Path, **options: Any) -> TextTowerAlignment:
    torch.manual_seed(0)
    text = TextEncoderConfig(
        str(base), "tiny", quantization="none", lora_rank=2, lora_dropout=0.0, max_length=32, **options.pop("text", {})
    )
    settings: dict[str, Any] = {"loss": "infonce", "text_lr": 2e-4, **options}
    optimizer = OptimizerConfig(lr=0.01, backbone_lr=0.001)
    module = TextTowerAlignment(
        text, encoder=SMALL, text_dim=64, text_fingerprint="abc", class_counts=COUNTS, contract=CONTRACT,
        optimizer=optimizer, **settings,
    )  # fmt: skip
    module.build("cpu")
    stir(module.text_encoder)
    return module


def make_batch(module: TextTowerAlignment) -> dict[str, Any]:
    texts = [*TEXTS, *(text.replace("left", "right") for text in TEXTS[::-1])]
    return {
        "image": torch.rand(len(texts), 1, 8, 12, 12, generator=torch.Generator().manual_seed(1)),
        "text": module.text_encoder.tokenize(texts),
        "report_id": torch.arange(len(texts)),
        "attributes": torch.tensor([[0, 0], [1, 0], [1, 1], [0, 0], [1, -100], [1, 1], [1, 0], [0, 0]]),
    }


def differentiate(module: TextTowerAlignment) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    batch = make_batch(module)
    loss = module.loss(
        module(batch["image"]), module.embed_text(batch["text"]), batch["report_id"], batch["attributes"]
    )
    loss.backward()
    return loss.detach(), {name: value.grad for name, value in module.named_parameters() if value.grad is not None}


@pytest.mark.parametrize(("kind", "size"), [("infonce", 1), ("knowledge", 3)])
def test_micro_batches_give_the_gradient_of_the_full_batch_in_both_towers(base: Path, kind: str, size: int) -> None:
    loss, expected = differentiate(make_tower(base, loss=kind, embed_dim=6))
    largest = max(float(value.abs().max()) for value in expected.values())
    assert any("lora_" in name and float(value.abs().max()) > 0 for name, value in expected.items())
    assert not any(name.startswith("text_encoder.") and "lora_" not in name for name in expected)
    found_loss, found = differentiate(make_tower(base, loss=kind, embed_dim=6, micro_batch=size))
    torch.testing.assert_close(found_loss, loss, rtol=1e-6, atol=1e-6)
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5 * largest, msg=name)


def test_each_part_moves_at_its_own_rate_and_the_base_stays(base: Path) -> None:
    module = make_tower(base)
    made = make_optimizer(module, module.optimizer_config, 10, module.backbone(), module.rates())
    names = {id(value): name for name, value in module.named_parameters()}
    rates: dict[str, set[float]] = {"text_encoder": set(), "model.image_encoder": set(), "model.image_head": set()}
    seen = set()
    for group in made["optimizer"].param_groups:
        for value in group["params"]:
            seen.add(names[id(value)])
            for part, found in rates.items():
                if names[id(value)].startswith(part):
                    found.add(group["initial_lr"])
    assert rates == {"text_encoder": {2e-4}, "model.image_encoder": {0.001}, "model.image_head": {0.01}}
    assert {name for name in seen if name.startswith("text_encoder.")} == {
        name for name, _ in module.named_parameters() if "lora_" in name
    }


def test_a_checkpoint_holds_adapters_and_image_encoder_without_the_base(base: Path, tmp_path: Path) -> None:
    module, other = make_tower(base), make_tower(base)
    stir(other.text_encoder, 5)
    state = module.state_dict()
    assert {"model.logit_scale", "model.text_mean"} <= set(state)
    text = {name for name in state if name.startswith("text_encoder.")}
    assert text == {name for name, _ in module.named_parameters() if "lora_" in name}
    checkpoint = {"state_dict": state, "hyper_parameters": dict(module.hparams)}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "last.ckpt")
    read = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert str(base) not in str(read["hyper_parameters"])
    other._trainer = SimpleNamespace(strategy=None)  # type: ignore[assignment]
    other.on_load_checkpoint(read)
    other.load_state_dict(read["state_dict"], strict=False)
    batch = make_batch(module)
    whole = module.unsharded(read["state_dict"])
    for made in (other, whole):
        torch.testing.assert_close(made.embed_text(batch["text"]), module.embed_text(batch["text"]))
    torch.testing.assert_close(whole.eval()(batch["image"]), module.eval()(batch["image"]))
    read[CHECKPOINT_KEY]["origin"]["base"] = "another"
    with pytest.raises(ModelError, match="base: another there"):
        other.on_load_checkpoint(read)


def test_what_cannot_be_trained_or_sharded_is_refused(base: Path) -> None:
    with pytest.raises(ModelError, match=r"text\.adapter is off"):
        make_tower(base, text={"adapter": False})
    with pytest.raises(ModelError, match="text_lr=0"):
        make_tower(base, text_lr=0.0)
    module = make_tower(base, micro_batch=2)
    module._trainer = SimpleNamespace(strategy=ModelParallelStrategy())  # type: ignore[assignment]
    with pytest.raises(ModelError, match=r"micro_batch=2 was found with trainer\.strategy=fsdp2"):
        module.configure_model()
    module._trainer = SimpleNamespace(strategy=FSDPStrategy())  # type: ignore[assignment]
    with pytest.raises(ModelError, match="expected fsdp2"):
        module.configure_model()
