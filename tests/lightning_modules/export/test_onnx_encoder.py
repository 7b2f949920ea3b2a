"""An encoder as ONNX computes what torch does, for any number of images and any phases that are there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from lightning_modules.core.errors import ModelError
from lightning_modules.export import onnx_encoder
from lightning_modules.export.image import load_exported, save_encoder
from lightning_modules.export.onnx_encoder import TOLERANCE, export_onnx
from lightning_modules.networks.image.encoders import EncoderConfig, build_encoder
from lightning_modules.networks.image.hounsfield import region_statistics
from lightning_modules.networks.image.lesion_shape import _levels
from lightning_modules.networks.image.regions import averaged

CROP = (9, 11, 10)
CONFIGS = {
    "regions": EncoderConfig(network="regions", region_width=4, token_dim=4, region_dim=4),
    "resnet": EncoderConfig(width=4, depth=10),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_onnxruntime_computes_what_torch_does(name: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    torch.manual_seed(3)
    encoder = build_encoder(CONFIGS[name]).eval()
    for buffer in encoder.buffers():  # as after a training, so that normalisation does something
        if buffer.is_floating_point():
            buffer.add_(torch.rand_like(buffer) * 0.1)
    save_encoder(tmp_path / "encoder", encoder, CONFIGS[name], {"grid": [10, 12, 12]}, "card")
    check = export_onnx(tmp_path / "encoder", tmp_path / "model.onnx", CROP)
    assert check.difference <= TOLERANCE
    assert check.ratio > 0
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    loaded, _ = load_exported(tmp_path / "encoder")
    generator = torch.Generator().manual_seed(11)
    channels = 4 if name == "regions" else 1
    for count in (1, 2, 5):
        image = torch.rand(count, channels, *CROP, generator=generator)
        if channels == 4:
            image[0, 2] = -1.0
        with torch.no_grad():
            expected = loaded(image).numpy()
        (got,) = session.run(None, {"image": image.numpy()})
        np.testing.assert_allclose(got, expected, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.slow
def test_a_graph_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    save_encoder(tmp_path / "encoder", build_encoder(CONFIGS["resnet"]), CONFIGS["resnet"], {}, "card")
    monkeypatch.setattr(onnx_encoder, "TOLERANCE", -1.0)
    with pytest.raises(ModelError, match="differs from torch by"):
        export_onnx(tmp_path / "encoder", tmp_path / "model.onnx", CROP)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder"]


@pytest.mark.parametrize("size", [(4, 5, 5), (3, 11, 7), (9, 11, 10), (1, 1, 1)])
def test_windows_as_matrices_are_torchs_adaptive_ones(
    size: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    features = torch.rand(2, 3, *CROP)
    expected = functional.adaptive_avg_pool3d(features, size)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close(averaged(features, size), expected)


def test_statistics_of_all_voxels_are_those_of_the_voxels_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    hu = torch.rand(3, 4, *CROP) * 400 - 150
    share = torch.rand(3, 8, *CROP) * (torch.rand(3, 8, *CROP) > 0.97)
    share[2] = 0
    expected = region_statistics(hu, share, (-200.0, 300.0))
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close(region_statistics(hu, share, (-200.0, 300.0)), expected, atol=1e-5, rtol=1e-5)


def test_the_running_maximum_is_torchs() -> None:
    sinus, slices = torch.rand(5, 36), torch.rand(5, 36)
    ends = torch.cummax(sinus, dim=1).values
    starts = torch.cummax(sinus.flip(1), dim=1).values.flip(1)
    share, beside = slices / slices.sum(dim=1, keepdim=True), torch.minimum(ends, starts)
    expected = [(share * (ends - beside)).sum(1), (share * beside).sum(1), (share * (starts - beside)).sum(1)]
    for found, wanted in zip(_levels(slices, sinus), expected, strict=True):
        assert torch.equal(found, wanted)
