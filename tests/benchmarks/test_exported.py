"""The benchmark of exported encoders runs, and times only what was held against torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightning_modules.core.errors import ModelError
from lightning_modules.export import onnx_encoder
from tests.benchmarks import exported


@pytest.mark.slow
def test_it_writes_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    profile = {"encoder": {"region_width": 4, "token_dim": 4, "region_dim": 4}, "augmentation": {"crop": [9, 11, 10]}}
    (tmp_path / "demo.yaml").write_text(json.dumps(profile))
    monkeypatch.setattr(exported, "PROFILES", tmp_path)
    exported.run(quick=True, out=tmp_path / "onnx.json")
    figures = json.loads((tmp_path / "onnx.json").read_text())
    own = figures["encoders"]["demo"]
    assert own["difference"] <= figures["tolerance"] == 1e-4
    assert own["times"]["torch"]["ratio_to_reference"] == 1.0
    low, high = own["times"]["onnxruntime"]["ratio_range"]
    assert 0 < low <= own["times"]["onnxruntime"]["ratio_to_reference"] <= high
    monkeypatch.setattr(onnx_encoder, "TOLERANCE", -1.0)
    with pytest.raises(ModelError, match="differs from torch by"):
        exported.run(quick=True, out=tmp_path / "other.json")
    assert not (tmp_path / "other.json").exists()


def test_the_profiles_that_are_measured_have_a_network_and_a_crop() -> None:
    for name in exported.MEASURED:
        text = (exported.PROFILES / f"{name}.yaml").read_text(encoding="utf-8")
        assert "\nencoder:" in text
        assert "  crop: [" in text
