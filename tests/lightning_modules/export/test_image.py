"""An exported encoder loads back equal, and nothing else loads at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lightning_modules.core.errors import ModelError
from lightning_modules.core.optimization import OptimizerConfig
from lightning_modules.downstream.classification import Classification
from lightning_modules.export.image import CONFIG, WEIGHTS, load_exported, load_pretrained, read_encoder, save_encoder
from lightning_modules.networks.image.encoders import EncoderConfig, build_encoder

CONFIGURATION = EncoderConfig(width=4, depth=10)
CONTRACT = {"grid": [8, 12, 12], "window_hu": [-200.0, 300.0], "region": "kidney"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_encoder(tmp_path / "encoder", build_encoder(CONFIGURATION), CONFIGURATION, CONTRACT, "# Card\n")
    return tmp_path / "encoder"


def test_it_loads_back_equal(folder: Path) -> None:
    torch.manual_seed(0)
    original = build_encoder(CONFIGURATION).eval()
    encoder, exported = load_exported(folder)
    image = torch.rand(2, 1, 8, 12, 12)
    assert torch.equal(encoder(image), original(image))
    assert exported.contract == CONTRACT
    assert (folder / "README.md").read_text() == "# Card\n"


def test_fine_tuning_starts_from_it_and_remembers_no_path(folder: Path) -> None:
    encoder, exported = load_exported(folder)
    module = Classification(
        encoder=CONFIGURATION,
        class_counts=[6, 2],
        contract=CONTRACT,
        optimizer=OptimizerConfig(),
        pretrained=folder,
        pretrained_sha256=exported.sha256,
    )
    for name, value in module.encoder.state_dict().items():
        assert torch.equal(value, encoder.state_dict()[name])
    assert str(folder) not in repr(dict(module.hparams))
    assert module.hparams["pretrained_sha256"] == exported.sha256


def test_what_does_not_fit_is_refused(folder: Path) -> None:
    def load(config: EncoderConfig = CONFIGURATION, contract: dict[str, object] = CONTRACT, sha256: str = "") -> None:
        load_pretrained(build_encoder(config), config, contract, folder, sha256)

    load()
    load(EncoderConfig(width=4, depth=10, checkpointing=True, channels_last=False))
    load(contract={**CONTRACT, "region": "tumor"})
    with pytest.raises(ModelError, match="width: 4 there, 8 here"):
        load(EncoderConfig(width=8, depth=10))
    with pytest.raises(ModelError, match="contract grid"):
        load(contract={**CONTRACT, "grid": [8, 12, 13]})
    with pytest.raises(ModelError, match="trained anew"):
        load(sha256="0" * 64)


def test_damage_is_named(folder: Path) -> None:
    content = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**content, "format": 9}))
    with pytest.raises(ModelError, match="format 9"):
        read_encoder(folder)
    (folder / CONFIG).write_text(json.dumps(content))
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ModelError, match="is damaged"):
        read_encoder(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        read_encoder(folder)
