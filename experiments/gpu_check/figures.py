"""What a user asks of a device: volumes a second, share of time waiting, memory, and how far from its limits."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from datamodules.augmentation import AugmentationConfig, VolumeAugmentation
from datamodules.errors import DataError
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.roi import Volume
from datamodules.volumes.shards import VolumeSet, finish_volume_set, write_shard
from experiments.gpu_check.check_results import CheckResult, judged, losses, seconds_of, skipped
from experiments.gpu_check.subjects import Sizes, image_stage, random_base, region_config, text_config
from experiments.runs.failures import describe
from lightning_modules.core.precision import has_native_bf16
from lightning_modules.networks.text.encoder import TextEncoder

PAPER = Sizes(crop=(32, 128, 128), rows=16, width=24)
"""Stage 1 of the profile `paper`: its crop and its encoder of 48 channels."""
_PHASES = ("non_contrast", "arterial", "venous", "delayed")
_PATIENTS = 24


def limits(device: torch.device) -> dict[str, float]:
    """What the device can do at most: bytes copied a second, and operations of a matrix product by precision."""
    large = device.type == "cuda"
    source = torch.ones((256 if large else 16) << 20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    figures = {"copy_gb_s": 2 * source.numel() / seconds_of(lambda: target.copy_(source), device) / 1e9}
    side = 8192 if large else 512
    kinds = {"float32": torch.float32} | ({"bf16": torch.bfloat16, "fp16": torch.float16} if large else {})
    for name, dtype in kinds.items():
        matrix = torch.randn(side, side, device=device).to(dtype)
        seconds = seconds_of(lambda matrix=matrix: matrix @ matrix, device)  # type: ignore[misc]
        figures[f"matrix_{name}_tflops"] = 2 * side**3 / seconds / 1e12
    return figures


def stage_one(device: torch.device, sizes: Sizes, base: Path) -> Iterator[CheckResult]:
    """Stage 1 at the paper's crop by precision: volumes a second, peak memory, share of the measured matrix rate."""
    large = device.type == "cuda"
    shape = PAPER if large else sizes
    most = limits(device)
    yield CheckResult("limits", "PASS", ", ".join(f"{name} {value:.3g}" for name, value in most.items()), figures=most)
    kinds: dict[str, torch.dtype | None] = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    for name, dtype in kinds.items():
        title = f"stage 1, {name}"
        if dtype is not None and (not large or (dtype == torch.bfloat16 and not has_native_bf16())):
            yield skipped(title, "needs a GPU with native support")
            continue
        subject = image_stage(device, shape, base, region_config(shape, patch=(1, 4, 4) if large else (2, 2, 2)))
        with FlopCounterMode(display=False) as counted:
            losses(subject, 1, dtype)
        if large:
            torch.cuda.reset_peak_memory_stats(device)
        seconds = seconds_of(lambda: losses(subject, 1, dtype), device)  # noqa: B023 - called at once
        rate = counted.get_total_flops() / seconds / 1e12
        figures = {
            "volumes_s": 4 * shape.rows / seconds,
            "step_ms": 1e3 * seconds,
            "tflops": rate,
            "of_matrix_rate": rate / most[f"matrix_{name}_tflops"],
        }
        if large:
            figures["peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
        said = f"{figures['volumes_s']:.1f} volumes/s, {figures['of_matrix_rate']:.0%} of the matrix rate"
        yield judged(title, True, said, **figures)


class _Stored(Dataset[torch.Tensor]):
    def __init__(self, volumes: VolumeSet) -> None:
        self.volumes = volumes

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, position: int) -> torch.Tensor:
        return torch.from_numpy(self.volumes.read(position))[None]


def input_path(device: torch.device, sizes: Sizes, base: Path) -> Iterator[CheckResult]:
    """Volumes a second from shards to augmented images, and the share of a stage-1 step that waits for them."""
    large = device.type == "cuda"
    crop, rows = (PAPER.crop, PAPER.rows) if large else (sizes.crop, sizes.rows)
    grid = (40, 140, 140) if large else tuple(size + 4 for size in crop)
    contract = PreprocessingContract(grid=grid)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder, entries = Path(scratch) / "volumes" / f"kidney-{contract.hash}", []
        for number in range(_PATIENTS):
            name = f"patient-{number}"
            volumes = [
                Volume("study", phase, "left", phase, rng.integers(-200, 300, grid, dtype=np.int16))
                for phase in _PHASES
            ]
            entries.append(write_shard(folder, name, volumes, [], contract))
        finish_volume_set(folder, contract, entries)
        loader = DataLoader(
            _Stored(VolumeSet(folder)), batch_size=rows, shuffle=True, num_workers=4 if large else 0,
            pin_memory=large, generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        change = VolumeAugmentation(contract, AugmentationConfig(crop=crop))
        shape = Sizes(crop, rows, PAPER.width if large else sizes.width)
        subject = image_stage(device, shape, base, region_config(shape, patch=(1, 4, 4) if large else (2, 2, 2)))
        alone = _epoch(loader, change, device)
        with_step = _epoch(loader, change, device, subject)
    figures = {
        "volumes_s": len(loader.dataset) / alone["seconds"],  # type: ignore[arg-type]
        "waiting": with_step["waiting"] / with_step["seconds"],
        "mb_s": _PATIENTS * 4 * np.prod(grid) * 2 / alone["seconds"] / 1e6,
    }
    said = f"{figures['volumes_s']:.0f} volumes/s, {figures['waiting']:.0%} of a training epoch waits for them"
    yield judged("input path", True, said, **figures)


def _epoch(loader: Any, change: VolumeAugmentation, device: torch.device, subject: Any = None) -> dict[str, float]:
    waited, started = 0.0, time.perf_counter()
    asked = started
    for number, batch in enumerate(loader):
        waited += time.perf_counter() - asked
        images = change(batch.to(device, non_blocking=True), torch.arange(len(batch), device=device))
        if subject is not None and len(batch) == len(subject.batch["patient"]):
            subject.module.training_step(
                {**subject.batch, "image": images.expand(-1, 4, -1, -1, -1)}, number
            ).backward()
            subject.module.zero_grad()
        asked = time.perf_counter()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return {"waiting": waited, "seconds": time.perf_counter() - started}


LANGUAGE_MODELS: dict[str, dict[str, int]] = {
    "1 B": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128256,
    },
    "8 B": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128256,
    },
}  # fmt: skip
"""Shapes of Llama 3.2 1B and Llama 3 8B."""
_TINY = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "vocab_size": 512}


def planned_gib(sizes: dict[str, int], rank: int, half_bytes: int = 2) -> float:
    """Memory of a base in nf4 with its adapters, in GiB.

    Four bits a weight of the blocks, and with double quantisation 0.127 more for their scales (Dettmers et al.,
    NeurIPS 2023, section 3); embeddings in the compute precision; adapters in float32.

    Args:
        sizes: Fields of a Llama configuration.
        rank: Of the adapters.
        half_bytes: Bytes of a number in the compute precision.
    """
    hidden, inner, layers = sizes["hidden_size"], sizes["intermediate_size"], sizes["num_hidden_layers"]
    heads = sizes.get("num_attention_heads", 4)
    narrow = hidden // heads * sizes.get("num_key_value_heads", 2)
    shapes = [(hidden, hidden)] * 2 + [(hidden, narrow)] * 2 + [(hidden, inner)] * 3
    blocks = layers * sum(a * b for a, b in shapes)
    adapters = layers * sum(rank * (a + b) for a, b in shapes)
    return (blocks * (4 + 0.127) / 8 + half_bytes * sizes["vocab_size"] * hidden + 4 * adapters) / 2**30


def quantised(device: torch.device, sizes: Sizes, base: Path) -> Iterator[CheckResult]:
    """QLoRA of random language models: memory of the loaded base against the plan, and of one step."""
    models = LANGUAGE_MODELS if device.type == "cuda" else {"tiny": _TINY}
    for name, shape in models.items():
        title, rank = f"nf4 QLoRA, {name}", 16
        wanted = planned_gib(shape, rank, 2 if device.type == "cuda" else 4)
        free = shutil.disk_usage(base.parent).free / 2**30
        if 5 * wanted > free:
            yield skipped(title, f"needs {5 * wanted:.0f} GiB of disk for its weights, {free:.0f} are free")
            continue
        with tempfile.TemporaryDirectory(dir=base.parent) as folder:
            random_base(Path(folder), **shape)
            config = text_config(Path(folder), quantization="nf4", lora_rank=rank, checkpointing=True)
            encoder = TextEncoder(config, device).train()
        held = sum(value.numel() * value.element_size() for value in encoder.parameters()) / 2**30
        figures = {"planned_gib": wanted, "weights_gib": held}
        ids = torch.randint(3, 30, (4, 32), generator=torch.Generator().manual_seed(0)).to(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        encoder(ids, torch.ones_like(ids)).square().mean().backward()
        if device.type == "cuda":
            figures["step_peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
        moved = any(value.grad is not None and bool(value.grad.any()) for value in encoder.parameters())
        fits = moved and held <= 1.1 * wanted
        yield judged(title, fits, f"{held:.4g} GiB of weights, {wanted:.4g} planned", **figures)
        del encoder
        if device.type == "cuda":
            torch.cuda.empty_cache()


def out_of_memory(device: torch.device, sizes: Sizes, base: Path) -> Iterator[CheckResult]:
    """An allocation that cannot be had is turned into advice."""
    error: BaseException = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 TiB.")
    if device.type == "cuda":
        try:
            torch.empty(1 << 50, dtype=torch.uint8, device=device)
        except torch.OutOfMemoryError as found:
            error = found
        else:
            raise DataError("A petabyte was allocated on the GPU; its memory cannot be asked.")
    failure = describe(error)
    said = "" if failure is None else failure.sentence
    yield judged("out of memory", "data.init_args.device_batch" in said, said)
