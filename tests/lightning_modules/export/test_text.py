"""An exported text encoder: what the folder holds, and what is refused on loading."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lightning_modules.core.errors import ModelError
from lightning_modules.export.text import load_text_encoder, read_text_encoder, save_text_encoder
from lightning_modules.networks.text.encoder import TextEncoder, TextEncoderConfig
from tests.tiny_text import TEXTS, make_base, stir


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def exported(base: Path, tmp_path: Path) -> tuple[Path, TextEncoder]:
    config = TextEncoderConfig(str(base), "tiny", quantization="none", lora_rank=4, projection=8, layers=2)
    encoder = TextEncoder(config, "cpu")
    stir(encoder)
    sha256 = save_text_encoder(tmp_path / "out", encoder, "# Card\n")
    assert read_text_encoder(tmp_path / "out").sha256 == sha256
    return tmp_path / "out", encoder


def test_the_folder_holds_adapters_and_no_path(exported: tuple[Path, TextEncoder], base: Path) -> None:
    folder, encoder = exported
    assert {path.name for path in folder.iterdir()} == {
        "adapter_model.safetensors",
        "translator.safetensors",
        "adapter_config.json",
        "projection.safetensors",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "README.md",
    }
    texts = "".join(path.read_text() for path in folder.iterdir() if path.suffix in (".json", ".md"))
    assert str(base.parent) not in texts
    content = json.loads((folder / "config.json").read_text())
    assert content["encoder"]["quantization"] == "none"
    assert content["base_fingerprint"] == encoder.base_fingerprint
    assert content["fingerprint"] == encoder.fingerprint()
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "tiny"


def test_peft_alone_reads_the_adapters(exported: tuple[Path, TextEncoder], base: Path) -> None:
    from peft import PeftModel
    from transformers import AutoConfig, AutoModel

    folder, encoder = exported
    config = AutoConfig.from_pretrained(base)
    config.num_hidden_layers, config.is_causal = 2, False
    model = PeftModel.from_pretrained(AutoModel.from_pretrained(base, config=config, dtype=torch.float32), folder)
    tokens = encoder.tokenize(TEXTS)
    torch.testing.assert_close(model.eval()(**tokens).last_hidden_state, encoder.hidden(**tokens))


def test_another_base_or_quantisation_is_refused(
    exported: tuple[Path, TextEncoder], base: Path, tmp_path: Path
) -> None:
    folder, _ = exported
    other = make_base(tmp_path / "other", seed=3)
    with pytest.raises(ModelError, match=r"was trained on tiny, and this base does not fit \(base: "):
        load_text_encoder(folder, str(other), "cpu")
    for change in ({"quantization": "nf4"}, {"pooling": "last"}, {"layers": 1}):
        with pytest.raises(ModelError, match="was trained otherwise"):
            load_text_encoder(folder, str(base), "cpu", **change)
    with pytest.raises(ModelError, match="belongs to the base tiny, which is no hub id"):
        load_text_encoder(folder)
    loaded = load_text_encoder(folder, str(base), "cpu", checkpointing=True, quantization="none")
    assert loaded.config.checkpointing


def test_a_base_whose_linear_layers_alone_were_changed_is_another_one(base: Path, tmp_path: Path) -> None:
    """As merging an adapter into it does."""
    import shutil

    from safetensors.torch import load_file, save_file

    from lightning_modules.networks.text.language_model import base_fingerprint

    merged = Path(shutil.copytree(base, tmp_path / "merged"))
    weights = load_file(merged / "model.safetensors")
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    weights[name] = weights[name] + 0.01 * torch.randn(64, 1) @ torch.randn(1, 64)
    save_file(weights, merged / "model.safetensors", metadata={"format": "pt"})
    assert base_fingerprint(merged) != base_fingerprint(base)


def test_a_base_that_lacks_weights_is_not_completed_at_random(base: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    cut = Path(shutil.copytree(base, tmp_path / "cut"))
    weights = load_file(cut / "model.safetensors")
    weights.pop(next(name for name in weights if name.endswith("0.mlp.up_proj.weight")))
    save_file(weights, cut / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights of a llama language model, first .*up_proj"):
        TextEncoder(TextEncoderConfig(str(cut), "cut", quantization="none"), "cpu")


def test_damaged_folders_are_refused(exported: tuple[Path, TextEncoder], base: Path, tmp_path: Path) -> None:
    folder, _ = exported
    with pytest.raises(ModelError, match=r"has no config.json, adapter_model.safetensors"):
        load_text_encoder(tmp_path / "nowhere", str(base))
    weights = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(ModelError, match="is damaged"):
        load_text_encoder(folder, str(base))
    (folder / "adapter_model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text(json.dumps({"kind": "something"}))
    with pytest.raises(ModelError, match="expected renal-text-encoder of format 1"):
        load_text_encoder(folder, str(base))
