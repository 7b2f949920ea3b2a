"""`make benchmarks BENCH=onnx`: the exported image encoder by onnxruntime beside the same by torch, in one run.

One kidney of a visit, four contrast phases of which one is absent, through the region encoder of a profile with random
weights, on one core. What is timed was held against torch before, as `make export ONNX=true` does.
"""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.table import Table

from datamodules.files import write_json
from lightning_modules.export.image import load_exported, save_encoder
from lightning_modules.export.onnx_encoder import TOLERANCE, export_onnx, onnx_runtime
from lightning_modules.networks.image.encoders import EncoderConfig, build_encoder
from lightning_modules.networks.image.regions import PHASES
from tests.benchmarks.machine import describe_machine, load_average, one_core
from tests.benchmarks.timing import interleaved, summarize

RESULTS = Path(__file__).parent / "results" / "onnx.json"
PROFILES = Path(__file__).parents[2] / "experiments" / "configs" / "profile"
MEASURED = ("demo", "study")
TORCH, RUNTIME = "torch", "onnxruntime"


def run(quick: bool = False, out: Path | None = None) -> dict[str, Any]:
    """Measure the encoders of the profiles.

    Args:
        quick: That of `demo` alone, in three rounds.
        out: File for the figures; the published results by default, `runs/benchmarks/onnx.json` for a quick run.

    Returns:
        Every figure, as plain data.

    Raises:
        ModelError: if onnxruntime is not installed, or computes something else than torch.
    """
    out = out or (Path("runs/benchmarks/onnx.json") if quick else RESULTS)
    results: dict[str, Any] = {
        "what": "region encoders of random weights, one kidney of three phases, float32 on one core",
        "date": datetime.now(UTC).date().isoformat(),
        "quick": quick,
        "machine": describe_machine() | {"onnxruntime": onnx_runtime().__version__},
        "tolerance": TOLERANCE,
    }
    console = Console()
    with console.status("encoders"):
        measured = MEASURED[:1] if quick else MEASURED
        results["encoders"] = {name: encoder_figures(name, 3 if quick else 11) for name in measured}
    results["load_average_at_the_end"] = load_average()
    write_json(out, results)
    console.print(_table(results["encoders"]))
    console.print(f"Figures: {out.as_posix()}", highlight=False)
    return results


def encoder_figures(profile: str, rounds: int) -> dict[str, Any]:
    """Times of both, and the largest difference of a feature, for the encoder and crop of a profile."""
    settings = yaml.safe_load((PROFILES / f"{profile}.yaml").read_text(encoding="utf-8"))
    config, crop = EncoderConfig(**settings["encoder"] | {"network": "regions"}), settings["augmentation"]["crop"]
    with one_core(), tempfile.TemporaryDirectory(prefix="renal-onnx-") as name:
        folder, model = Path(name) / "encoder", Path(name) / "model.onnx"
        torch.manual_seed(0)
        save_encoder(folder, build_encoder(config).eval(), config, {}, "random weights")
        check = export_onnx(folder, model, tuple(crop))
        encoder, _ = load_exported(folder)
        options = onnx_runtime().SessionOptions()
        options.intra_op_num_threads = 1
        session = onnx_runtime().InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        image = torch.rand(1, PHASES, *crop)
        image[:, -1] = -1.0
        array = image.numpy()
        with torch.inference_mode():
            functions = {TORCH: lambda: encoder(image), RUNTIME: lambda: session.run(None, {"image": array})}
            times = interleaved(functions, rounds)
    return {"crop": list(crop), "difference": check.difference, "times": summarize(times, 1, TORCH)}


def _table(encoders: dict[str, dict[str, Any]]) -> Table:
    table = Table(title="Image encoder by onnxruntime beside torch")
    for column in ("profile", "torch, ms a kidney", "onnxruntime", "times as fast (range over rounds)", "difference"):
        table.add_column(column)
    for name, found in encoders.items():
        mine, theirs = found["times"][RUNTIME], found["times"][TORCH]
        low, high = mine["ratio_range"]
        ratio = f"{mine['ratio_to_reference']:.2f} ({low:.2f} to {high:.2f})"
        cells = (
            f"{theirs['wall_ms_median']:.0f}",
            f"{mine['wall_ms_median']:.0f}",
            ratio,
            f"{found['difference']:.1e}",
        )
        table.add_row(name, *cells)
    return table
