"""`make benchmarks BENCH=text`: time and memory of a step of the text stage, and a memory plan for larger bases.

Every row is a process of its own on the same tokens: forward, mean of the squared embedding, backward, AdamW. Speeds
compare processor time, which other programs on the machine disturb less than the clock.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from datamodules.errors import DataError
from datamodules.files import write_json
from datamodules.processes import fresh_process
from datamodules.reports.llm.models import SMALL, model_source
from experiments.benchmarks.machine import describe_machine, forget_peak, load_average, peak_mb, resident_mb
from experiments.benchmarks.text_memory import BASES, BaseSizes, memory_plan
from experiments.runs.console import say
from lightning_modules.core.optimization import OptimizerConfig, make_optimizer
from lightning_modules.networks.text.encoder import TextEncoder, TextEncoderConfig

RESULTS = Path(__file__).parent / "results" / "text.json"
PLAN_BATCH, PLAN_LENGTH = 8, 224
SMOLLM2 = BaseSizes(576, 1536, 30, 9, 3, 64, 49152, True)


@dataclass(frozen=True)
class Row:
    """One way to train.

    Args:
        quantization: nf4 or none.
        compute_dtype: Precision of the computation.
        checkpointing: Whether activations are recomputed.
        optimizer: Kind of the optimiser.
    """

    quantization: str = "none"
    compute_dtype: str = "float32"
    checkpointing: bool = False
    optimizer: str = "adamw"


ROWS = {
    "fp32 LoRA": Row(),
    "fp32 LoRA, checkpointing": Row(checkpointing=True),
    "fp32 LoRA, 8-bit AdamW": Row(optimizer="paged_adamw8bit"),
    "nf4 QLoRA, fp32 compute": Row("nf4"),
    "nf4 QLoRA, fp32 compute, checkpointing": Row("nf4", checkpointing=True),
    "nf4 QLoRA, fp32 compute, 8-bit AdamW": Row("nf4", optimizer="paged_adamw8bit"),
    "nf4 QLoRA, bf16 compute": Row("nf4", "bfloat16"),
    "nf4 QLoRA, bf16 compute, checkpointing": Row("nf4", "bfloat16", checkpointing=True),
}
REFERENCE = "fp32 LoRA"


@dataclass(frozen=True)
class Size:
    """How much is measured: layers of the base, texts and tokens a step, timed steps."""

    layers: int
    batch: int
    length: int
    steps: int


FULL, QUICK = Size(6, 8, 96, 4), Size(2, 2, 32, 1)


def run(quick: bool = False, out: Path | None = None) -> dict[str, Any]:
    """Measure the ways to train, and compute the memory of larger bases.

    Args:
        quick: Two layers and short texts only.
        out: File for the figures; the published results by default, `runs/benchmarks/text.json` for a quick run.

    Returns:
        Every figure, as plain data.

    Raises:
        DataError: if a row's process fails.
    """
    out = out or (Path("runs/benchmarks/text.json") if quick else RESULTS)
    size, base = (QUICK if quick else FULL), model_source(SMALL)[0]
    results: dict[str, Any] = {
        "what": f"a training step of {SMALL} cut to {size.layers} layers, {size.batch} texts of {size.length} tokens",
        "date": datetime.now(UTC).date().isoformat(),
        "quick": quick,
        "machine": {**describe_machine(), "threads": torch.get_num_threads()},
        "rows": _measure(size, base),
        "plan": {
            "batch": PLAN_BATCH,
            "length": PLAN_LENGTH,
            "gib": {name: memory_plan(sizes, PLAN_BATCH, PLAN_LENGTH) for name, sizes in BASES.items()},
        },
    }
    results["plan_of_measured"] = _beside_measured(size, results["rows"])
    results["load_average_at_the_end"] = load_average()
    write_json(out, results)
    console = Console()
    console.print(_time_table(results), _plan_table(results))
    console.print(f"Figures: {out.as_posix()}", highlight=False)
    return results


def _measure(size: Size, base: str) -> dict[str, dict[str, float]]:
    """Seconds of a step and memory of every row."""
    figures: dict[str, dict[str, float]] = {}
    for number, (label, row) in enumerate(ROWS.items(), start=1):
        say(f"{number} of {len(ROWS)}: {label} ...")
        receiver, sender = multiprocessing.Pipe(duplex=False)
        process = fresh_process(_process, sender, row, size, base, torch.get_num_threads())
        process.start()
        sender.close()  # so that a process that dies is an end of file here, and no wait for ever
        try:
            figures[label] = receiver.recv()
        except EOFError as error:
            raise DataError(
                f"The benchmark's row {label!r} ended early; look for memory with `make doctor`."
            ) from error
        finally:
            process.join()
        say(
            f"  {figures[label]['wall_s']:.2f} s a step, peak {figures[label]['activations_mb']:.0f} MB above the model"
        )
    reference = figures[REFERENCE]["processor_s"]
    for row_figures in figures.values():
        row_figures["speed"] = reference / row_figures["processor_s"]
    return figures


def _process(sender: Any, row: Row, size: Size, base: str, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    before = resident_mb()["own"]
    config = TextEncoderConfig(
        base=base,
        base_name=SMALL,
        layers=size.layers,
        quantization=row.quantization,  # type: ignore[arg-type]
        compute_dtype=row.compute_dtype,  # type: ignore[arg-type]
        checkpointing=row.checkpointing,
    )
    encoder = TextEncoder(config, "cpu").train()
    kind: Any = row.optimizer
    optimizer = make_optimizer(encoder, OptimizerConfig(lr=1e-4, kind=kind), 100)["optimizer"]
    ids = torch.randint(5, len(encoder.tokenizer), (size.batch, size.length))

    def step(tokens: torch.Tensor) -> None:
        encoder(tokens, torch.ones_like(tokens)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    step(ids[:1, :8])  # libraries and the optimiser's state are there from here on
    loaded = resident_mb()["own"]
    walls, processors, rises = [], [], []
    # Without bf16 units a step takes ten times as long, and the first one tells that.
    for _ in range(1 if row.compute_dtype == "bfloat16" else size.steps):
        forget_peak()
        resident, wall, processor = peak_mb(), time.perf_counter(), time.process_time()
        step(ids)
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
        rises.append(peak_mb() - resident)
    sender.send(
        {
            "wall_s": statistics.median(walls),
            "processor_s": min(processors),
            "loaded_mb": loaded - before,
            "activations_mb": max(rises),  # NaN but on Linux
        }
    )


def _beside_measured(size: Size, rows: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The plan for what was measured, so that the formula can be judged: activations of float32 with and without
    checkpointing."""
    cut = BaseSizes(**{**vars(SMOLLM2), "layers": size.layers})
    points = {}
    for label, checkpointing in (("fp32 LoRA", False), ("fp32 LoRA, checkpointing", True)):
        plan = memory_plan(
            cut, size.batch, size.length, four_bit=False, compute_bytes=4, checkpointing=checkpointing, masked_share=0.0
        )
        points[label] = {"planned_mb": plan["activations"] * 1024, "measured_mb": rows[label]["activations_mb"]}
    return points


def _time_table(results: dict[str, Any]) -> Table:
    table = Table(results["what"], "s a step", "processor s", "speed", "loaded MB", "peak of a step MB", box=None)
    for label, row in results["rows"].items():
        numbers = (f"{row['wall_s']:.2f}", f"{row['processor_s']:.2f}", f"{row['speed']:.2f}")
        table.add_row(label, *numbers, f"{row['loaded_mb']:.0f}", f"{row['activations_mb']:.0f}")
    return table


def _plan_table(results: dict[str, Any]) -> Table:
    plan = results["plan"]
    names = list(next(iter(plan["gib"].values())))
    table = Table(f"GiB, {plan['batch']} texts of {plan['length']} tokens, nf4, checkpointing", *names, box=None)
    for base, parts in plan["gib"].items():
        table.add_row(base, *(f"{parts[name]:.2f}" for name in names))
    for label, point in results["plan_of_measured"].items():
        text = f"{label}: planned {point['planned_mb']:.0f} MB, measured {point['measured_mb']:.0f} MB"
        table.add_row(text)
    return table
