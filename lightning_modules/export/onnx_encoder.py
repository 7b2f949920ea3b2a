"""An exported image encoder as ONNX, for programs without torch; held against torch before it is kept."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lightning_modules.core.errors import ModelError
from lightning_modules.export.image import read_encoder
from lightning_modules.networks.image.encoders import build_encoder, joins_phases
from lightning_modules.networks.image.regions import PHASES

ONNX = "model.onnx"
TOLERANCE = 1e-4
"""Largest difference of a feature, of its own size where that is above 1."""
_REPEATS = 5


@dataclass(frozen=True)
class OnnxCheck:
    """How an ONNX encoder compares with torch on the images that it was held against.

    Args:
        difference: Largest difference of a feature, relative where the feature is above 1.
        torch_s, onnx_s: Seconds a batch, the median of five in turns, in this process.
        images: Images of a batch.
    """

    difference: float
    torch_s: float
    onnx_s: float
    images: int

    @property
    def ratio(self) -> float:
        """How many times as fast as torch onnxruntime was, in one run."""
        return self.torch_s / self.onnx_s


def export_onnx(folder: Path, out: Path, crop: tuple[int, int, int], seed: int = 0) -> OnnxCheck:
    """Write an encoder as ONNX: `image` float32 [B, C, D, H, W] in [0, 1] to `feature` float32 [B, F].

    C is 1, or 4 of an encoder that joins contrast phases, where an absent phase is -1 throughout. D, H and W are those
    of the crop; B is free. The file is kept only where it computes what torch does.

    Args:
        folder: Folder of the exported encoder.
        out: File to write.
        crop: Voxels D x H x W that the encoder sees.
        seed: Of the images that both are held against.

    Raises:
        ModelError: if onnx or onnxruntime is not installed, or the two differ by more than `TOLERANCE`.
    """
    runtime = onnx_runtime()
    found = read_encoder(folder)
    # How weights lie in memory changes no result, and a graph knows nothing of it.
    encoder = build_encoder(replace(found.config, channels_last=False, compile=False, checkpointing=False)).eval()
    encoder.load_state_dict(found.weights)
    images = _images(encoder, crop, 3, seed)
    partial = out.with_name(f".{out.name}.part")
    try:
        with warnings.catch_warnings(), torch.inference_mode(False):
            warnings.simplefilter("ignore")  # of the exporter, about its own parts
            torch.onnx.export(
                encoder,
                (images[:2],),
                partial,
                input_names=["image"],
                output_names=["feature"],
                dynamo=True,
                external_data=False,
                dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},),
                verbose=False,
            )
        session = runtime.InferenceSession(str(partial), _options(runtime), providers=["CPUExecutionProvider"])
        check = _checked(encoder, session, images)
        if check.difference > TOLERANCE:
            raise ModelError(
                f"The ONNX encoder differs from torch by {check.difference:.1e}; at most {TOLERANCE:.0e} is kept."
            )
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return check


def _images(encoder: nn.Module, crop: tuple[int, int, int], count: int, seed: int) -> torch.Tensor:
    channels = PHASES if joins_phases(encoder) else 1
    images = torch.rand(count, channels, *crop, generator=torch.Generator().manual_seed(seed))
    if channels > 1:  # each lacks another phase, one all but one
        for number in range(count):
            images[number, number % channels] = -1.0
        images[-1, 1:] = -1.0
        images[-1, 0] = images[0, 1]
    return images


@torch.no_grad()
def _checked(encoder: nn.Module, session: Any, images: torch.Tensor) -> OnnxCheck:
    difference = 0.0
    for batch in (images, images[:1]):
        expected = encoder(batch).numpy()
        (got,) = session.run(None, {"image": batch.numpy()})
        difference = max(difference, float((np.abs(got - expected) / np.maximum(1, np.abs(expected))).max()))
    spent: dict[str, list[float]] = {"torch": [], "onnx": []}
    for _ in range(_REPEATS):  # in turns, so that what else the machine does falls on both
        started = time.perf_counter()
        encoder(images)
        between = time.perf_counter()
        session.run(None, {"image": images.numpy()})
        spent["torch"].append(between - started)
        spent["onnx"].append(time.perf_counter() - between)
    return OnnxCheck(difference, float(np.median(spent["torch"])), float(np.median(spent["onnx"])), len(images))


def _options(runtime: Any) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return options


def onnx_runtime() -> Any:
    """onnxruntime, with what the exporter needs.

    Raises:
        ModelError: if a package is not installed.
    """
    try:
        import onnx  # noqa: F401 - the exporter needs it
        import onnxruntime
        import onnxscript  # noqa: F401 - the exporter needs it
    except ImportError as error:
        raise ModelError(
            f"ONNX needs a package that is not here ({error.name}); run `pip install 'renal-vlm-suite[onnx]'`."
        ) from error
    return onnxruntime
