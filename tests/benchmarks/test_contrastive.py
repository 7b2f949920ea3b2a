"""The contrastive benchmark runs, and a large global batch stays near the memory of a small one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lightning_modules.networks.image.encoders import EncoderConfig
from tests.benchmarks import contrastive


@pytest.mark.slow
def test_it_writes_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrastive, "PAIRS", 512)
    monkeypatch.setattr(contrastive, "DIM", 128)
    seen: list[object] = []

    def measured(function: object, *arguments: object) -> object:
        seen.append(arguments)
        return (100.0 + float(str(arguments[0])), 10.0, 1.0) if len(arguments) == 1 else 5.0

    monkeypatch.setattr(contrastive, "_fresh", measured)
    monkeypatch.setattr(contrastive, "seconds_by_ranks", lambda *arguments, rounds: {"1": 1.0, "2": 0.5})
    contrastive.run(quick=True, out=tmp_path / "contrastive.json")
    figures = json.loads((tmp_path / "contrastive.json").read_text())
    assert set(figures["losses"]) == set(contrastive.LOSSES)
    assert all(row["seconds"] > 0 for row in figures["losses"].values())
    assert figures["seconds_by_ranks"]["InfoNCE, in chunks"]["2"] == 0.5
    assert figures["step"]["times_the_small_batch"] == pytest.approx(228 / 164)
    assert [arguments for arguments in seen if len(arguments) == 1] == [(64,), (128,)]  # type: ignore[arg-type]


def test_the_synthetic_images_are_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    augmentation = contrastive.VolumeAugmentation(
        contrastive.CONTRACT, contrastive.AugmentationConfig(crop=contrastive.CROP)
    )
    images = contrastive.SeededImages(6, augmentation)
    assert images[2:4].shape == (2, 1, *contrastive.CROP)
    assert torch.equal(images[2:4], images[0:6][2:4])
    monkeypatch.setattr(contrastive, "ENCODER", EncoderConfig(depth=10, width=4))
    monkeypatch.setattr(contrastive, "MICRO_BATCH", 2)
    contrastive.training_step(3)()


def test_a_loss_that_is_wrong_is_not_timed() -> None:
    inputs = contrastive.make_pairs(8, 4)
    right = contrastive._differentiate(contrastive.LOSSES[contrastive.FULL], inputs)
    with pytest.raises(contrastive.DataError, match="differs in loss"):
        contrastive._check_equal("ours", (right[0] * 1.1, *right[1:]), right)
