"""`make benchmarks BENCH=train`: a step of stage 1 against a bare loop of the same network, and against others.

Synthetic batches that are already on the device, so that the step alone is measured: forward, masked loss of all
attributes, backward, clipping, AdamW. The bare loop and Lightning's loop take turns, step by step, within one thread.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import bootstrap

from datamodules.files import write_json
from lightning_modules.networks.image.encoders import EncoderConfig
from tests.benchmarks.machine import describe_machine, load_average
from tests.benchmarks.scaling import seconds_by_precision, seconds_by_ranks
from tests.benchmarks.step_bound import measure_step_bound
from tests.benchmarks.step_memory import peak_memory_mb
from tests.benchmarks.steps import (
    LIGHTNING,
    UNBUFFERED,
    Round,
    bare_step,
    interleaved_steps,
    make_batch,
    make_module,
    monai_step,
)
from tests.benchmarks.timing import summarize

RESULTS = Path(__file__).parent / "results" / "train.json"
BARE = "bare PyTorch loop"
REPORTED_SECONDS_A_VOLUME = 0.69
"""The reference's published code at the paper's crop, forward and backward, on two cores of another such machine."""


class Geometry(NamedTuple):
    """Network and input of a profile, and how long to measure.

    Args:
        encoder: The network.
        crop: Voxels of a volume, D x H x W.
        batch: Volumes in a timed step; the paper's is cut to what a small machine holds.
        memory_batch: Volumes in the step whose memory is measured.
        rounds: Steps of each row.
        others: Slow rows that are measured as well.
    """

    encoder: EncoderConfig
    crop: tuple[int, int, int]
    batch: int
    memory_batch: int
    rounds: int
    others: tuple[str, ...] = ()


COMPILED, MONAI = "with torch.compile", "MONAI ResNet-18, its default stem"
DEMO = EncoderConfig(depth=10, width=8, stem_pool=False, stem_norm="instance")
GEOMETRIES = {
    "demo": Geometry(DEMO, (36, 44, 44), 8, 32, 40, (COMPILED,)),
    "paper": Geometry(EncoderConfig(stem_norm="instance"), (32, 128, 128), 1, 6, 6, (MONAI,)),
}
HOST = Geometry(DEMO, (8, 12, 12), 2, 2, 100)
"""A network with next to nothing to compute: what is left of a step is the work around it."""


def run(quick: bool = False, out: Path | None = None) -> dict[str, Any]:
    """Measure training steps.

    Args:
        quick: A few rounds of the demo geometry only.
        out: File for the figures; the published results by default, `runs/benchmarks/train.json` for a quick run.

    Returns:
        Every figure, as plain data.
    """
    out = out or (Path("runs/benchmarks/train.json") if quick else RESULTS)
    console = Console()
    results: dict[str, Any] = {
        "what": "training steps of stage 1 on synthetic batches, float32 on a CPU",
        "date": datetime.now(UTC).date().isoformat(),
        "quick": quick,
        "machine": {**describe_machine(), "threads": torch.get_num_threads()},
        "reported_seconds_a_volume_of_the_reference": REPORTED_SECONDS_A_VOLUME,
    }
    host = _short(HOST) if quick else HOST
    results["added_ms_a_step"] = added_ms(_times(host, {BARE: bare_step(make_module(host.encoder), _batch(host))}))
    for name in ["demo"] if quick else list(GEOMETRIES):
        geometry = _short(GEOMETRIES[name]) if quick else GEOMETRIES[name]
        results[name] = _measure(geometry)
        console.print(_steps_table(name, results[name]), _bound_table(results[name]["bound"]))
        results["load_average_at_the_end"] = load_average()
        write_json(out, results)
    for label, added in results["added_ms_a_step"].items():
        console.print(f"{label} adds {added['median']:.1f} ms to a step")
    console.print(f"Figures: {out.as_posix()}", highlight=False)
    return results


def _short(geometry: Geometry) -> Geometry:
    return geometry._replace(rounds=5, others=())


def _batch(geometry: Geometry) -> dict[str, torch.Tensor]:
    return make_batch(geometry.crop, geometry.batch)


def _measure(geometry: Geometry) -> dict[str, Any]:
    config, batch = geometry.encoder, _batch(geometry)
    configs = {
        BARE: config,
        "without channels-last": replace(config, channels_last=False),
        "with checkpointing": replace(config, checkpointing=True),
    }
    if COMPILED in geometry.others:
        configs[COMPILED] = replace(config, compile=True)
    steps: dict[str, Callable[[], None]] = {
        label: bare_step(make_module(changed), batch) for label, changed in configs.items()
    }
    if MONAI in geometry.others:
        steps[MONAI] = monai_step(batch)
    rounds = _times(geometry, steps)
    figures = summarize(rounds, geometry.batch, BARE)
    for label, row in figures.items():
        row["ratio_interval_95"] = median_interval([times[BARE][0] / times[label][0] for times in rounds])
    # On a busy machine the processor's time is what the wall clock of an idle one would show.
    undisturbed = min(times[BARE][1] for times in rounds) / torch.get_num_threads()
    memory = {
        label: peak_memory_mb(replace(config, checkpointing=checkpointing), geometry.crop, geometry.memory_batch)
        for label, checkpointing in (("kept", False), ("recomputed", True))
    }
    described = (config, geometry.crop, geometry.batch)
    return {
        "seconds_a_step_by_ranks": seconds_by_ranks(step_on, *described, rounds=geometry.rounds),
        "seconds_a_step_on_the_gpu": seconds_by_precision(step_on, *described, rounds=geometry.rounds),
        "batch": geometry.batch,
        "crop": list(geometry.crop),
        "rounds": geometry.rounds,
        "steps": figures,
        "bound": measure_step_bound(steps[BARE], undisturbed, geometry.batch),
        "peak_memory_mb": {"batch": geometry.memory_batch, **memory},
    }


def step_on(config: EncoderConfig, crop: tuple[int, int, int], size: int, device: str) -> Callable[[], None]:
    """The bare loop's step on a device, with a batch of its own on every rank."""
    batch = {name: value.to(device) for name, value in make_batch(crop, size).items()}
    return bare_step(make_module(config).to(device), batch)


def _times(geometry: Geometry, steps: dict[str, Callable[[], None]]) -> list[Round]:
    with tempfile.TemporaryDirectory() as folder:
        return interleaved_steps(make_module(geometry.encoder), _batch(geometry), steps, geometry.rounds, Path(folder))


def median_interval(values: Sequence[float]) -> list[float]:
    """The 95 % interval of a median over rounds: percentiles of a bootstrap."""
    found = bootstrap(
        (np.asarray(values),), np.median, method="percentile", n_resamples=2000, rng=np.random.default_rng(0)
    ).confidence_interval
    return [float(found.low), float(found.high)]


def added_ms(rounds: Sequence[Round]) -> dict[str, dict[str, Any]]:
    """Milliseconds that Lightning's loop, its hooks, callbacks and logging add to a step: median and interval."""
    added = {
        label: [1000 * (times[label][0] - times[BARE][0]) for times in rounds] for label in (LIGHTNING, UNBUFFERED)
    }
    return {
        label: {"median": statistics.median(values), "interval_95": median_interval(values)}
        for label, values in added.items()
    }


def _steps_table(name: str, figures: dict[str, Any]) -> Table:
    table = Table(
        f"{name} geometry",
        "ms a volume",
        "volumes/s",
        "speed, bare loop = 1 (95 % interval)",
        "by processor time",
        box=None,
    )
    for label, row in figures["steps"].items():
        low, high = row["ratio_interval_95"]
        ratio = f"{row['ratio_to_reference']:.2f} ({low:.2f} to {high:.2f})"
        processor = f"{row['ratio_to_reference_processor']:.2f}"
        table.add_row(label, f"{row['wall_ms_median']:.1f}", f"{row['volumes_per_second']:.1f}", ratio, processor)
    memory = figures["peak_memory_mb"]
    for label in ("kept", "recomputed"):
        table.add_row(f"peak memory, activations {label}, {memory['batch']} volumes: {memory[label]:.0f} MB")
    alone, together = figures["seconds_a_step_by_ranks"].values()
    table.add_row(f"two ranks, a thread each: {2 * alone / together:.2f} times the volumes of one")
    for precision, seconds in figures["seconds_a_step_on_the_gpu"].items():
        table.add_row(f"GPU, {precision}: {1000 * seconds / figures['batch']:.2f} ms a volume")
    return table


def _bound_table(bound: dict[str, Any]) -> Table:
    title = f"bare loop: {bound['share_achieved']:.0%} of the bound"
    table = Table(title, "GFLOP", "MB moved", "least ms", "ms", box=None)
    for kind, row in bound["kinds"].items():
        columns = ("gflop_a_volume", "mb_moved_a_volume", "least_ms_a_volume", "ms_a_volume")
        table.add_row(kind, *(f"{row[column]:.1f}" for column in columns))
    return table
