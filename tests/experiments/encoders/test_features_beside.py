"""Features that several processes compute, as several GPUs do, are those of one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.augmentation import AugmentationConfig
from datamodules.cohort.labels import Label
from datamodules.tasks import RoiDataModule
from experiments.encoders import features as features_module
from experiments.encoders.features import frozen_features
from lightning_modules.networks.image.encoders import EncoderConfig, build_encoder
from tests.tiny import CONTRACT

LABEL = Label("malignancy", "malignancy", [0, 1], ["benign", "malignant"])


@pytest.mark.slow
def test_features_of_two_processes_are_those_of_one(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = RoiDataModule(
        tiny_root, LABEL, contract=CONTRACT, augmentation=AugmentationConfig(crop=(8, 10, 10)), phases="single"
    )
    torch.manual_seed(0)
    network = build_encoder(EncoderConfig(width=4, depth=10, stem_pool=True))
    monkeypatch.setattr(features_module, "_BATCH", 4)
    places = list(range(30))
    one = frozen_features(network, module, places, tmp_path / "one")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)  # and none is available: two processes, on the CPU
    two = frozen_features(network, module, places[::-1], tmp_path / "two")
    np.testing.assert_allclose(two[::-1], one, rtol=1e-5, atol=1e-6)
    assert len(np.unique(one, axis=0)) == len(one)
