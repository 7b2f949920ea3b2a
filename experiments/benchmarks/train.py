"""`make benchmarks BENCH=train`: a step of stage 1 against a bare loop of the same network, and against others.

Synthetic batches that are already on the device, so that the step alone is measured: forward, masked loss of all
attributes, backward, clipping, AdamW. The bare loop and the LightningModule alternate within one run.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning
import torch
from monai.networks.nets import resnet18
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader

from datamodules.attributes.schema import load_schema
from datamodules.files import write_json
from experiments.benchmarks.machine import describe_machine, forget_peak, load_average, peak_mb
from experiments.benchmarks.timing import interleaved, summarize
from lightning_modules.attributes import AttributePretraining
from lightning_modules.networks.encoders import EncoderConfig
from lightning_modules.optimization import OptimizerConfig, make_optimizer

RESULTS = Path(__file__).parent / "results" / "train.json"
GEOMETRIES: dict[str, tuple[EncoderConfig, tuple[int, int, int], int]] = {
    "demo": (EncoderConfig(depth=10, width=8, stem_pool=False, stem_norm="instance"), (36, 44, 44), 8),
    "paper": (EncoderConfig(depth=18, width=64, stem_norm="instance"), (32, 128, 128), 2),
}
"""Network, crop and batch by profile; the paper's batch is cut to what a small machine holds."""
REPORTED_SECONDS_A_VOLUME = 0.69
"""The reference's published code at the paper's crop, forward and backward, on two cores of another such machine."""
BARE = "bare PyTorch loop"


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
        "machine": describe_machine(),
        "reported_seconds_a_volume_of_the_reference": REPORTED_SECONDS_A_VOLUME,
    }
    for name in ["demo"] if quick else list(GEOMETRIES):
        with console.status(f"{name}: steps"):
            results[name] = _geometry(name, rounds=3 if quick else 7, steps=4 if name == "paper" or quick else 12)
    results["load_average_at_the_end"] = load_average()
    write_json(out, results)
    for name in (name for name in GEOMETRIES if name in results):
        console.print(_table(name, results[name]))
    console.print(f"Figures: {out.as_posix()}", highlight=False)
    return results


def _geometry(name: str, rounds: int, steps: int) -> dict[str, Any]:
    config, crop, batch_size = GEOMETRIES[name]
    batch = make_batch(crop, batch_size)
    functions: dict[str, Callable[[], Any]] = {
        BARE: bare_loop(make_module(config), batch, steps),
        "LightningModule": lightning_loop(config, batch, steps),
        "without channels-last": bare_loop(make_module(_changed(config, channels_last=False)), batch, steps),
        "with checkpointing": bare_loop(make_module(_changed(config, checkpointing=True)), batch, steps),
    }
    if name == "paper":
        functions["MONAI ResNet-18, its default stem"] = _monai_loop(batch, steps)
    figures: dict[str, Any] = dict(summarize(interleaved(functions, rounds), steps * batch_size, BARE))
    for label, changed in (("kept", config), ("recomputed", _changed(config, checkpointing=True))):
        figures[f"peak_memory_mb_activations_{label}"] = peak_memory_mb(changed, crop, batch_size)
    return figures


def _changed(config: EncoderConfig, **fields: Any) -> EncoderConfig:
    return EncoderConfig(**{**vars(config), **fields})


def make_module(config: EncoderConfig) -> AttributePretraining:
    """Stage 1 with all attributes of the schema."""
    counts = {name: dict.fromkeys(values, 10) for name, values in load_schema().classes.items()}
    return AttributePretraining(config, counts, {}, OptimizerConfig())


def make_batch(crop: tuple[int, int, int], size: int) -> dict[str, torch.Tensor]:
    """A batch in which two thirds of all attributes are stated."""
    generator = torch.Generator().manual_seed(0)
    classes = load_schema().classes.values()
    target = torch.stack([torch.randint(0, len(names), (size,), generator=generator) for names in classes], dim=1)
    target[torch.rand(target.shape, generator=generator) < 1 / 3] = -100
    image = torch.rand(size, 1, *crop, generator=generator)
    return {"image": image, "phase": torch.zeros(size, dtype=torch.int64), "attributes": target}


def bare_loop(module: AttributePretraining, batch: dict[str, torch.Tensor], steps: int) -> Callable[[], None]:
    """The steps without Lightning."""
    optimizer, schedule = _optimizer(module)

    def loop() -> None:
        module.train()
        for _ in range(steps):
            loss, _ = module.loss(module(batch["image"], batch["phase"]), batch["attributes"])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            schedule.step()

    return loop


def _optimizer(module: nn.Module) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    made = make_optimizer(module, OptimizerConfig(), 10_000)
    return made["optimizer"], made["lr_scheduler"]["scheduler"]


def lightning_loop(config: EncoderConfig, batch: dict[str, torch.Tensor], steps: int) -> Callable[[], None]:
    """The same steps through Lightning's own training loop, its start and end left out.

    A fit runs in a thread of control of its own: a loader hands out batches only while the timer waits for them.
    """
    import queue
    import threading

    wanted: queue.Queue[int] = queue.Queue()
    done: queue.Queue[None] = queue.Queue()

    class Batches(torch.utils.data.IterableDataset[dict[str, torch.Tensor]]):
        def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
            while True:
                count = wanted.get()
                for _ in range(count):
                    yield batch
                done.put(None)

    module = make_module(config)
    trainer = lightning.Trainer(
        max_steps=10_000_000, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, gradient_clip_val=1.0,
    )  # fmt: skip
    loader = DataLoader(Batches(), batch_size=None)
    threading.Thread(target=lambda: trainer.fit(module, loader), daemon=True).start()

    def loop() -> None:
        wanted.put(steps)
        done.get()

    return loop


def _monai_loop(batch: dict[str, torch.Tensor], steps: int) -> Callable[[], None]:
    network = resnet18(spatial_dims=3, n_input_channels=1, num_classes=2)
    optimizer, _ = _optimizer(network)

    def loop() -> None:
        for _ in range(steps):
            loss = network(batch["image"]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return loop


def peak_memory_mb(config: EncoderConfig, crop: tuple[int, int, int], size: int) -> float:
    """How much the resident memory of a fresh process rises at its peak over two steps, in MB; NaN but on Linux."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_memory, args=(sender, config, crop, size))
    process.start()
    sender.close()  # so that a process that dies is an end of file here, and no wait for ever
    value: float = receiver.recv()
    process.join()
    return value


def _measure_memory(sender: Any, config: EncoderConfig, crop: tuple[int, int, int], size: int) -> None:
    module, batch = make_module(config), make_batch(crop, size)
    bare_loop(module, make_batch((8, 16, 16), 2), 1)()  # libraries and optimiser state are not what is asked
    forget_peak()
    before = peak_mb()
    bare_loop(module, batch, 2)()
    sender.send(peak_mb() - before)


def _table(name: str, figures: dict[str, Any]) -> Table:
    table = Table(f"{name} geometry", "ms a volume", "volumes/s", "speed, bare loop = 1", box=None)
    for label, row in figures.items():
        if isinstance(row, dict):
            low, high = row["ratio_range"]
            ratio = f"{row['ratio_to_reference']:.2f} ({low:.2f} to {high:.2f})"
            table.add_row(label, f"{row['wall_ms_median']:.1f}", f"{row['volumes_per_second']:.1f}", ratio)
        else:
            table.add_row(label.replace("_", " "), f"{row:.0f}", "", "")
    return table
