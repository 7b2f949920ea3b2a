"""`make benchmarks BENCH=contrastive`: the loss without its matrix, and a global batch at a micro-batch's memory.

The loss of 4,096 pairs with 4,096 dimensions against the form that holds the matrix, as open_clip writes it; and the
peak of resident memory of a training step on a global batch of 4,096 against one of 64, with images that are made anew
from their seeds in the second pass, as the DataModule reads them again.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional

from datamodules.augmentation import AugmentationConfig, VolumeAugmentation
from datamodules.errors import DataError
from datamodules.files import write_json
from datamodules.processes import fresh_process
from datamodules.volumes.contract import PreprocessingContract
from lightning_modules.core.distributed import number_of_ranks, own_rank
from lightning_modules.core.missing import MISSING
from lightning_modules.core.optimization import OptimizerConfig, make_optimizer
from lightning_modules.losses.contrastive import info_nce, knowledge_info_nce
from lightning_modules.losses.sigmoid import sigmoid_loss
from lightning_modules.networks.image.encoders import EncoderConfig
from lightning_modules.pretrain.alignment import ClipAlignment
from tests.benchmarks.machine import describe_machine, forget_peak, load_average, peak_mb
from tests.benchmarks.scaling import seconds_by_precision, seconds_by_ranks
from tests.benchmarks.timing import interleaved

RESULTS = Path(__file__).parent / "results" / "contrastive.json"
PAIRS, DIM, ATTRIBUTES, TEXT_DIM = 4096, 4096, 31, 576
FULL = "InfoNCE, full matrix (open_clip)"
FULL_SIGMOID = "SigLIP, full matrix"
CONTRACT = PreprocessingContract(grid=(40, 48, 48))
CROP = (36, 44, 44)
ENCODER = EncoderConfig(depth=10, width=8, stem_pool=False, stem_norm="instance")
BATCHES, MICRO_BATCH = (64, 4096), 32
ALLOWED = 1.5
"""Times the memory of the small batch that the large one may take."""

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def run(quick: bool = False, out: Path | None = None) -> dict[str, Any]:
    """Measure losses and gradient caching.

    Args:
        quick: An eighth of the pairs and dimensions, and a global batch of 128.
        out: File for the figures; the published results by default, `runs/benchmarks/contrastive.json` for a quick run.

    Returns:
        Every figure, as plain data.

    Raises:
        DataError: if a loss differs from its full matrix's, since its time would mean nothing.
    """
    out = out or (Path("runs/benchmarks/contrastive.json") if quick else RESULTS)
    console = Console()
    pairs, dim = (PAIRS // 8, DIM // 8) if quick else (PAIRS, DIM)
    batches = (64, 128) if quick else BATCHES
    results: dict[str, Any] = {
        "what": "contrastive losses and gradient caching, float32 on a CPU, synthetic samples",
        "date": datetime.now(UTC).date().isoformat(),
        "quick": quick,
        "machine": describe_machine(),
        "pairs": pairs,
        "dimensions": dim,
    }
    with console.status("losses"):
        results["losses"] = losses(pairs, dim, rounds=2)
    with console.status("two ranks, and a GPU where there is one"):
        results["seconds_by_ranks"] = {name: seconds_by_ranks(loss_on, name, pairs, dim, rounds=2) for name in CHUNKED}
        results["seconds_on_the_gpu"] = {
            name: seconds_by_precision(loss_on, name, pairs, dim, rounds=10) for name in CHUNKED
        }
    with console.status("gradient caching"):
        results["step"] = steps(batches)
    results["load_average_at_the_end"] = load_average()
    write_json(out, results)
    console.print(_loss_table(results))
    console.print(_step_table(results["step"]))
    console.print(f"Figures: {out.as_posix()}", highlight=False)
    return results


def full_info_nce(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """InfoNCE as open_clip's `ClipLoss` writes it for one rank: both matrices of logits, two cross-entropies."""
    per_image, per_text = scale * image @ text.T, scale * text @ image.T
    labels = torch.arange(len(image))
    return (functional.cross_entropy(per_image, labels) + functional.cross_entropy(per_text, labels)) / 2


def full_sigmoid(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """SigLIP as open_clip's `SigLipLoss` writes it for one rank."""
    sign = 2 * torch.eye(len(image)) - 1
    return -functional.logsigmoid(sign * (scale * image @ text.T + bias)).sum() / len(image)


def _knowledge(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    attributes = torch.randint(0, 3, (len(image), ATTRIBUTES), generator=generator)
    attributes[torch.rand(attributes.shape, generator=generator) < 0.6] = MISSING
    report_id = torch.randint(0, len(image), (len(image),), generator=generator)
    return knowledge_info_nce(image, text, scale, report_id.to(image.device), attributes.to(image.device))


LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    FULL: lambda image, text, scale, bias: full_info_nce(image, text, scale),
    "InfoNCE, in chunks": lambda image, text, scale, bias: info_nce(image, text, scale),
    "knowledge-aware InfoNCE, in chunks": _knowledge,
    FULL_SIGMOID: full_sigmoid,
    "SigLIP, in chunks": sigmoid_loss,
}
CHUNKED = tuple(name for name in LOSSES if name.endswith("in chunks"))


def losses(pairs: int, dim: int, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds, times and peak memory of a loss with its gradient, by name.

    `extra_mb` is the rise of resident memory in a fresh process above the embeddings and their gradients, which every
    form needs.
    """
    inputs = make_pairs(pairs, dim)
    for ours, theirs in (("InfoNCE, in chunks", FULL), ("SigLIP, in chunks", FULL_SIGMOID)):
        _check_equal(ours, _differentiate(LOSSES[ours], inputs), _differentiate(LOSSES[theirs], inputs))
    functions = {name: (lambda loss=loss: _differentiate(loss, inputs)) for name, loss in LOSSES.items()}
    times = interleaved(functions, rounds)
    figures: dict[str, dict[str, float]] = {}
    for name in LOSSES:
        seconds = sorted(by_name[name][0] for by_name in times)
        reference = FULL_SIGMOID if "SigLIP" in name else FULL
        ratio = sorted(by_name[name][0] / by_name[reference][0] for by_name in times)
        gc.collect()
        figures[name] = {
            "seconds": seconds[len(seconds) // 2],
            "times_full_matrix": ratio[len(ratio) // 2],
            "extra_mb": _fresh(_loss_memory, name, pairs, dim),
        }
    return figures


def make_pairs(pairs: int, dim: int) -> Inputs:
    """Unit embeddings with a gradient, scale and bias."""
    generator = torch.Generator().manual_seed(0)
    image = functional.normalize(torch.randn(pairs, dim, generator=generator), dim=1)
    text = functional.normalize(image + torch.randn(pairs, dim, generator=generator) / math.sqrt(dim), dim=1)
    scale, bias = torch.tensor(1 / 0.07), torch.tensor(-10.0)
    return tuple(value.requires_grad_(True) for value in (image, text, scale, bias))  # type: ignore[return-value]


def loss_on(name: str, pairs: int, dim: int, device: str) -> Callable[[], object]:
    """A loss with its gradient on a device, of this rank's share of the pairs."""
    share = pairs // number_of_ranks()
    rows = slice(own_rank() * share, (own_rank() + 1) * share)
    image, text, *rest = (value.detach().to(device) for value in make_pairs(pairs, dim))
    inputs = [value.clone().requires_grad_(True) for value in (image[rows], text[rows], *rest)]
    return lambda: _differentiate(LOSSES[name], tuple(inputs))  # type: ignore[arg-type]


def _differentiate(loss: Callable[..., torch.Tensor], inputs: Inputs) -> tuple[torch.Tensor, ...]:
    value = loss(*inputs)
    return (value.detach(), *torch.autograd.grad(value, inputs[:3]))


def _check_equal(name: str, ours: tuple[torch.Tensor, ...], theirs: tuple[torch.Tensor, ...]) -> None:
    for what, first, second in zip(("loss", "image", "text", "scale"), ours, theirs, strict=True):
        difference = float((first - second).abs().max() / second.abs().max())
        if difference > 1e-4:
            raise DataError(f"The benchmark was not run: {name} differs in {what} by {difference:.1e} of the largest.")


def _loss_memory(sender: Any, name: str, pairs: int, dim: int) -> None:
    _differentiate(LOSSES[name], make_pairs(64, 8))  # libraries are not what is asked
    inputs = make_pairs(pairs, dim)
    needed = 2 * pairs * dim * 4 / 2**20
    gc.collect()
    forget_peak()
    before = peak_mb()
    _differentiate(LOSSES[name], inputs)
    sender.send(peak_mb() - before - needed)


class SeededImages:
    """Images of a global batch that exist only while a part of them is asked for.

    Drawn in HU on the contract's grid from a seed each, and augmented from the same seed: as
    `datamodules.alignment.RereadImages` reads them from shards.

    Args:
        count: Number of images.
        augmentation: The augmentation.
    """

    def __init__(self, count: int, augmentation: VolumeAugmentation) -> None:
        self.seeds, self.augmentation = torch.arange(count), augmentation

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, part: slice) -> torch.Tensor:
        drawn = [
            torch.randint(
                -200, 300, (1, *CONTRACT.grid), dtype=torch.int16, generator=torch.Generator().manual_seed(seed)
            )
            for seed in self.seeds[part].tolist()
        ]
        return self.augmentation(torch.stack(drawn), self.seeds[part])


def steps(batches: tuple[int, int]) -> dict[str, Any]:
    """Peak resident memory and seconds of a training step, by global batch."""
    figures: dict[str, Any] = {
        str(batch): dict(zip(("peak_mb", "above_start_mb", "seconds"), _fresh(_step_memory, batch), strict=True))
        for batch in batches
    }
    small, large = (figures[str(batch)]["peak_mb"] for batch in batches)
    return {**figures, "micro_batch": MICRO_BATCH, "times_the_small_batch": large / small, "allowed": ALLOWED}


def training_step(batch: int) -> Callable[[], None]:
    """A step of alignment at the demo geometry: encode, contrast, encode again, clip, AdamW."""
    counts = {f"attribute {number}": {"no": 1, "yes": 1, "other": 1} for number in range(ATTRIBUTES)}
    module = ClipAlignment(ENCODER, TEXT_DIM, "synthetic", counts, {}, OptimizerConfig(), micro_batch=MICRO_BATCH)
    optimizer = make_optimizer(module, OptimizerConfig(), 100)["optimizer"]
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(batch, TEXT_DIM, generator=generator)
    attributes = torch.randint(0, 3, (batch, ATTRIBUTES), generator=generator)
    images = SeededImages(batch, VolumeAugmentation(CONTRACT, AugmentationConfig(crop=CROP)))

    def step() -> None:
        optimizer.zero_grad()
        module.loss(module(images), module.model.embed_text(text), torch.arange(batch), attributes).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 0.2)
        optimizer.step()
        module.model.bound_scale()

    return step


def _step_memory(sender: Any, batch: int) -> None:
    training_step(2)()  # libraries are loaded for any batch
    step = training_step(batch)
    gc.collect()
    forget_peak()
    before, start = peak_mb(), time.perf_counter()
    step()
    sender.send((peak_mb(), peak_mb() - before, time.perf_counter() - start))


def _fresh(function: Callable[..., None], *arguments: Any) -> Any:
    """What a function sends from a process of its own."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = fresh_process(function, sender, *arguments)
    process.start()
    sender.close()  # so that a process that dies is an end of file here, and no wait for ever
    value = receiver.recv()
    process.join()
    return value


def _loss_table(results: dict[str, Any]) -> Table:
    title = f"{results['pairs']:,} pairs, {results['dimensions']:,} dimensions"
    table = Table(title, "s, loss and gradient", "times the full matrix", "MB above embeddings", box=None)
    for name, row in results["losses"].items():
        table.add_row(name, f"{row['seconds']:.2f}", f"{row['times_full_matrix']:.2f}", f"{row['extra_mb']:.0f}")
    for name, seconds in results["seconds_by_ranks"].items():
        table.add_row(f"{name}, two ranks with half the pairs each", f"{seconds['2']:.2f}")
    for name, by_precision in results["seconds_on_the_gpu"].items():
        for precision, of_gpu in by_precision.items():
            table.add_row(f"{name}, GPU, {precision}", f"{of_gpu:.4f}")
    return table


def _step_table(figures: dict[str, Any]) -> Table:
    table = Table("global batch, by gradient caching", "peak MB", "MB above the start", "s a step", box=None)
    for name, row in figures.items():
        if isinstance(row, dict):
            table.add_row(name, f"{row['peak_mb']:.0f}", f"{row['above_start_mb']:.0f}", f"{row['seconds']:.1f}")
    table.add_row(
        "times the small batch", f"{figures['times_the_small_batch']:.2f}", f"allowed {figures['allowed']}", ""
    )
    return table
