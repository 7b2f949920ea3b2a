"""The exported attribute heads say what the stage-1 module says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lightning_modules.core.errors import ModelError
from lightning_modules.core.optimization import OptimizerConfig
from lightning_modules.export.attribute_heads import HEADS, HEADS_CONFIG, AttributeHeads, load_heads, save_heads
from lightning_modules.export.image import load_exported, save_encoder
from lightning_modules.export.layout import SEAL
from lightning_modules.networks.image.encoders import EncoderConfig
from lightning_modules.pretrain.attributes import AttributePretraining

COUNTS = {"margin": {"smooth": 3, "irregular": 4}, "bosniak": {"I": 2, "II": 2, "III": 1}}
CLASSES = {name: list(counts) for name, counts in COUNTS.items()}
PHASES = ("non_contrast", "arterial", "venous", "delayed")
CONFIG = EncoderConfig(depth=10, width=8)


def module(phase_input: bool = True) -> AttributePretraining:
    torch.manual_seed(0)
    made = AttributePretraining(CONFIG, COUNTS, {"grid": [8, 8, 8]}, OptimizerConfig(), phase_input=phase_input).eval()
    if made.phase is not None:
        torch.nn.init.normal_(made.phase.weight)
    return made


def exported(folder: Path, made: AttributePretraining) -> AttributeHeads:
    save_encoder(folder, made.encoder, CONFIG, made.contract, "card")
    heads = AttributeHeads.of_state(made.state_dict(), CLASSES, PHASES)
    save_heads(folder, heads)
    return heads


@pytest.mark.parametrize("phase_input", [True, False])
def test_reloaded_heads_give_the_modules_scores(tmp_path: Path, phase_input: bool) -> None:
    made = module(phase_input)
    exported(tmp_path, made)
    encoder, heads = load_exported(tmp_path)[0], load_heads(tmp_path)
    image, phase = torch.rand(2, 1, 16, 16, 16), torch.tensor([2, 2])
    expected = made.predict_step({"image": image, "phase": phase}, 0)
    with torch.no_grad():
        found = heads.scores(encoder(image), "venous")
    torch.testing.assert_close(torch.cat(list(found.values()), dim=1), expected)
    assert {name: value.shape[1] for name, value in found.items()} == {"margin": 2, "bosniak": 3}


def test_an_unknown_phase_is_averaged_over() -> None:
    heads = AttributeHeads.of_state(module().state_dict(), CLASSES, PHASES)
    feature = torch.rand(3, 64)
    each = [heads.scores(feature, name)["bosniak"] for name in PHASES]
    torch.testing.assert_close(heads.scores(feature)["bosniak"], torch.stack(each).mean(dim=0))


def test_heads_of_another_encoder_or_damaged_ones_are_refused(tmp_path: Path) -> None:
    exported(tmp_path, module())
    content = json.loads((tmp_path / HEADS_CONFIG).read_text())
    del content[SEAL]  # as of an export before there were seals
    (tmp_path / HEADS_CONFIG).write_text(json.dumps({**content, "classes": {"margin": ["smooth"]}}))
    with pytest.raises(ModelError, match="do not fit their classes"):
        load_heads(tmp_path)
    (tmp_path / HEADS_CONFIG).write_text(json.dumps({**content, "encoder_sha256": "0" * 64}))
    with pytest.raises(ModelError, match="belong to encoder 000000000000"):
        load_heads(tmp_path)
    (tmp_path / HEADS_CONFIG).write_text(json.dumps({"format": 1}))
    with pytest.raises(ModelError, match="damaged"):
        load_heads(tmp_path)
    (tmp_path / HEADS_CONFIG).write_text(json.dumps(content))
    (tmp_path / HEADS).write_bytes(b"nothing")
    with pytest.raises(ModelError, match="damaged"):
        load_heads(tmp_path)
    (tmp_path / HEADS).unlink()
    with pytest.raises(ModelError, match="make pretrain-image"):
        load_heads(tmp_path)


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    heads = AttributeHeads.of_state(module().state_dict(), CLASSES, PHASES)
    with pytest.raises(ModelError, match="the attribute heads know non_contrast"):
        heads.scores(torch.rand(1, 64), "portal")
    with pytest.raises(ModelError, match="tell it"):
        heads(torch.rand(1, 64))
    with pytest.raises(ModelError, match="holds no attribute heads"):
        AttributeHeads.of_state({}, CLASSES, PHASES)
    with pytest.raises(ModelError, match="holds no exported encoder"):
        save_heads(tmp_path, heads)
