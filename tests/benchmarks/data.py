"""`make benchmarks BENCH=data`: how fast stored volumes become augmented tensors, against the reference recipe.

The reference recipe loads one float32 file per volume and augments it with MONAI on a worker's core. Everything is
measured side by side in one run, at the paper's geometry, one thread on one core, from stored bytes to float32
[n, 1, 32, 128, 128]. Every chain crops, flips, rotates, translates, scales, and varies intensity and gamma over the
same ranges; the rows called default leave out the rotation about H, `exact, three axes` has it. The chains are checked
before they are timed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from datamodules.files import write_json
from datamodules.volumes.contract import PreprocessingContract
from tests.benchmarks.bound import measure_bound
from tests.benchmarks.chains import REFERENCE, all_chains
from tests.benchmarks.checks import check_chains, error_of_default
from tests.benchmarks.data_page import chain_table, draw, sentences
from tests.benchmarks.machine import allowed_cores, describe_machine, load_average, one_core
from tests.benchmarks.processes import BATCH, epoch_rates, rank_rates, worker_memory
from tests.benchmarks.stored_forms import Material, make_material
from tests.benchmarks.timing import interleaved, summarize

RESULTS = Path(__file__).parent / "results" / "data.json"


def run(quick: bool = False, out: Path | None = None) -> dict[str, Any]:
    """Measure the path from stored volumes to augmented tensors.

    Args:
        quick: A few rounds and epochs only, for a look.
        out: File for the figures; a picture of the same name is written beside it. By default the published results,
            or `runs/benchmarks/data.json` for a quick run, which is not to be published.

    Returns:
        Every figure, as plain data.

    Raises:
        DataError: if a chain does not do its work rightly.
    """
    out = out or (Path("runs/benchmarks/data.json") if quick else RESULTS)
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with tempfile.TemporaryDirectory() as folder, Progress(*columns, console=console, transient=True) as progress:
        material = make_material(Path(folder) / "material", 32 if quick else 64, PreprocessingContract())
        results = _measure(material, quick, progress)
    write_json(out, results)
    draw(results, out.with_suffix(".png"))
    console.print(chain_table(results))
    for sentence in sentences(results):
        console.print(sentence, highlight=False)
    return results


def _measure(material: Material, quick: bool, progress: Progress) -> dict[str, Any]:
    rounds, epochs = (3, 3) if quick else (15, 20)
    cores = allowed_cores()
    results: dict[str, Any] = {
        "what": "stored volumes to augmented tensors, phantom volumes, batch of 16, one thread a process",
        "date": datetime.now(UTC).date().isoformat(),
        "quick": quick,
        "machine": describe_machine(),
        "storage": material.bytes_per_volume(),
    }
    storage = results["storage"]
    storage["shard_share"] = storage["int16_shard"] / storage["float32_npy"]
    steps: dict[str, Callable[[], Any]] = {
        "checks": lambda: check_chains(material),
        "error_of_default": lambda: error_of_default(material.contract),
        "chains": lambda: _time_chains(material, rounds),
        "bound": lambda: _bound(material, rounds),
        "epochs_volumes_per_second": lambda: epoch_rates(material, 3 if quick else 4),
        "ranks_volumes_per_second": lambda: _by_ranks(material, min(2, len(cores)), rounds),
        "worker_memory_mb": lambda: worker_memory(material, epochs),
    }
    task = progress.add_task("data benchmark", total=len(steps))
    for name, step in steps.items():
        progress.update(task, description=name)
        results[name] = step()
        progress.advance(task)
    results["load_average_at_the_end"] = load_average()
    return results


def _by_ranks(material: Material, most: int, repeats: int) -> dict[str, dict[str, float]]:
    rates = {ranks: rank_rates(material, ranks, repeats) for ranks in range(1, most + 1)}
    return {name: {str(ranks): rates[ranks][name] for ranks in rates} for name in rates[1]}


def _time_chains(material: Material, rounds: int) -> dict[str, Any]:
    starts = iter(range(0, material.count * 10_000, BATCH))
    position = {"first": 0}

    def advance() -> None:
        position["first"] = next(starts) % material.count

    functions = {
        name: (lambda chain=chain: chain(range(position["first"], position["first"] + BATCH)))
        for name, chain in all_chains(material).items()
    }
    with one_core():
        return summarize(interleaved(functions, rounds, advance), BATCH, REFERENCE)


def _bound(material: Material, rounds: int) -> dict[str, Any]:
    with one_core():
        return measure_bound(material, rounds)
