"""What a model card prints for loading is run as it stands."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.cohort.cohort import CohortInfo
from datamodules.volumes.contract import PreprocessingContract
from experiments.pretraining.cards import encoder_card, text_card, writer_card
from lightning_modules.export.image import save_encoder
from lightning_modules.export.text import save_text_encoder
from lightning_modules.export.writer import save_report_writer
from lightning_modules.networks.image.encoders import EncoderConfig, build_encoder
from lightning_modules.networks.joint.report_writer import ReportWriter, WriterConfig
from lightning_modules.networks.text.encoder import TextEncoder, TextEncoderConfig
from tests.datamodules.importers.nifti_phantom import labels, save, scan_hu
from tests.tiny_text import make_base

INFO = CohortInfo("demo", "roles", "rendered", "Drawn by a test.", phantom=True, seed=1)
DEMO = PreprocessingContract(grid=(40, 48, 48))


def printed(card: Path) -> list[str]:
    """The code blocks of a card's section Load."""
    section = card.read_text(encoding="utf-8").split("## Load\n")[1]
    return [
        textwrap.dedent(block) for block in re.findall(r"(?m)(?:^(?:    .*)?\n)*^    .*\n(?:^(?:    .*)?\n)*", section)
    ]


def run(card: Path, names: dict[str, Any]) -> list[dict[str, Any]]:
    """What each block leaves, run by itself with some names beside."""
    results = []
    for block in printed(card):
        scope = dict(names)
        exec(compile(block, str(card), "exec"), scope)
        results.append(scope)
    return results


@pytest.mark.parametrize("network", ["resnet", "regions"])
def test_the_card_of_an_image_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str) -> None:
    config = EncoderConfig(network=network, width=4, depth=10, deep_width=8, region_width=4)
    torch.manual_seed(0)
    card = encoder_card("Image stage", INFO, config, DEMO.to_dict(), "An AUC.")
    save_encoder(tmp_path / "encoder", build_encoder(config), config, DEMO.to_dict(), card)
    save(tmp_path / "scan.nii.gz", scan_hu())
    save(tmp_path / "kidneys.nii.gz", labels())
    monkeypatch.chdir(tmp_path)
    channels = 4 if network == "regions" else 1
    assert f"with C = {channels} contrast phase" in card
    image = torch.rand(2, channels, 36, 44, 44)
    of_scan, of_tensor = run(tmp_path / "encoder/README.md", {"image": image})
    assert of_scan["features"].keys() == {"left", "right"}
    assert all(np.isfinite(feature).all() for feature in of_scan["features"].values())
    assert len(of_tensor["features"][0]) == len(of_scan["features"]["left"])


def test_the_card_of_a_text_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_base(tmp_path / "base")
    encoder = TextEncoder(TextEncoderConfig(str(base), "tiny", 1, "none", max_length=64, lora_rank=2), "cpu")
    card = text_card("Text", INFO, encoder.config, encoder.base_fingerprint, "")
    save_text_encoder(tmp_path / "encoder", encoder, card)
    (tmp_path / "<folder of tiny>").symlink_to(base)
    monkeypatch.chdir(tmp_path)
    (scope,) = run(tmp_path / "encoder/README.md", {"texts": ["A solid mass.", "No mass."]})
    assert scope["embeddings"].shape[0] == 2


def test_the_card_of_a_report_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_base(tmp_path / "base")
    image = EncoderConfig(width=4, depth=10)
    text = TextEncoderConfig(str(base), "tiny", 1, "none", max_length=64, lora_rank=2)
    writer = ReportWriter(image, text, WriterConfig(), "cpu")
    card = writer_card("Writer", INFO, text, writer.config, DEMO.to_dict(), "")
    save_report_writer(tmp_path / "writer", writer, image, DEMO.to_dict(), {"base": writer.base_fingerprint}, card)
    (tmp_path / "<folder of tiny>").symlink_to(base)
    monkeypatch.chdir(tmp_path)
    scope = {"image": torch.rand(1, 1, 36, 44, 44), "prompts": ["Report:"]}
    (found,) = run(tmp_path / "writer/README.md", scope)
    assert len(found["reports"]) == 1
