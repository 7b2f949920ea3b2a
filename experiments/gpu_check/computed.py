"""Whether a device computes what a CPU does: stages, precisions, layouts, compilation, augmentation, caching."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn import functional

from datamodules.augmentation import AugmentationConfig, VolumeAugmentation
from datamodules.volumes.contract import PreprocessingContract
from experiments.gpu_check.check_results import CheckResult, exact_float32, judged, losses, seconds_of, skipped
from experiments.gpu_check.subjects import (
    STAGES,
    Sizes,
    alignment,
    classification,
    image_stage,
    region_config,
    resnet_config,
)
from lightning_modules.core.precision import has_native_bf16

TOLERANCE = 1e-4
"""Largest relative difference of a loss in single precision."""
_NO_GPU = "needs a GPU"
_STEPS = 3
_FALLING_STEPS = 8


def _differ(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) / max(abs(a), 1e-3) for a, b in zip(one, other, strict=True))


def stages_in_float32(device: torch.device, sizes: Sizes, base: Path) -> Iterator[CheckResult]:
    """Every stage for a few steps in single precision, against the same steps on a CPU."""
    for stage, make in STAGES.items():
        name = f"{stage}, float32"
        with exact_float32():
            expected = losses(make(torch.device("cpu"), sizes, base), _STEPS)
            if device.type == "cpu":
                yield judged(
                    name, all(map(math.isfinite, expected)), "finite on this CPU; compared where there is a GPU",
                    loss=expected[-1],
                )  # fmt: skip
                continue
            found = losses(make(device, sizes, base), _STEPS)
        differ = _differ(expected, found)
        said = f"loss {found[-1]:.5f}, on the CPU {expected[-1]:.5f}"
        yield judged(name, differ <= TOLERANCE, said, loss=found[-1], relative_difference=differ)


def stages_in_half(device: torch.device, sizes: Sizes, base: Path) -> Iterator[CheckResult]:
    """Every stage in bfloat16 and float16 by autocast: finite, and the loss of one batch falls."""
    for kind, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        for stage, make in STAGES.items():
            name = f"{stage}, {kind}"
            if device.type == "cpu":
                yield skipped(name, _NO_GPU)
                continue
            if dtype == torch.bfloat16 and not has_native_bf16():
                yield skipped(name, "this GPU emulates bfloat16; fp16 is taken")
                continue
            found = losses(make(device, sizes, base), _FALLING_STEPS, dtype)
            fine = all(map(math.isfinite, found)) and min(found[-2:]) < found[0]
            yield judged(name, fine, f"loss {found[0]:.4f} to {found[-1]:.4f}", first=found[0], last=found[-1])


def bf16_convolution(device: torch.device, sizes: Sizes, base: Path) -> Iterator[CheckResult]:
    """A 3D convolution in bfloat16 against single precision: cuDNN 9.8 to 9.10 got some wrong."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 16, 16, 24, 24, generator=generator).to(device)
    weight = torch.randn(32, 16, 3, 3, 3, generator=generator).to(device)
    with exact_float32():
        exact = functional.conv3d(image, weight, padding=1)
    for layout, form in (("", torch.contiguous_format), (", channels last", torch.channels_last_3d)):
        half, kernel = (value.bfloat16().contiguous(memory_format=form) for value in (image, weight))
        differ = float((functional.conv3d(half, kernel, padding=1).float() - exact).abs().max() / exact.abs().max())
        yield judged(f"bf16 conv3d{layout}", differ < 0.02, f"differs by {differ:.4f}", relative_difference=differ)


def layouts(device: torch.device, sizes: Sizes, base: Path) -> Iterator[CheckResult]:
    """Channels last on and off: the same features, and how long a step takes.

    Features are compared in evaluation: in training some measurements are divided by their spread over a batch, which
    is next to nothing among a few random volumes and carries rounding up to a percent.
    """
    found, seconds = {}, {}
    for last in (True, False):
        with exact_float32():
            subject = image_stage(device, sizes, base, region_config(sizes, channels_last=last))
            with torch.no_grad():
                found[last] = subject.module.encoder.eval()(subject.batch["image"])  # type: ignore[union-attr]
            subject.module.train()
            seconds[last] = seconds_of(lambda subject=subject: losses(subject, 1), device)  # type: ignore[misc]
    differ = float((found[False] - found[True]).abs().max() / found[False].abs().max())
    ratio = seconds[False] / seconds[True]
    yield judged(
        "channels last", differ <= TOLERANCE, f"{ratio:.2f} times as fast as channels first, float32",
        relative_difference=differ, speedup=ratio,
    )  # fmt: skip


def compiled(device: torch.device, sizes: Sizes, base: Path) -> Iterator[CheckResult]:
    """torch.compile on and off: the same loss, graph breaks, and on a GPU how long a step takes."""
    from torch._dynamo import utils

    encoders = {"resnet": resnet_config(sizes), "regions": region_config(sizes)}
    makers = {"resnet": classification, "regions": image_stage}
    for kind, config in encoders.items():
        torch._dynamo.reset()
        utils.counters.clear()
        with exact_float32():
            plain, other = (makers[kind](device, sizes, base, config) for _ in range(2))
            other.module.encoder.compile(backend="eager" if device.type == "cpu" else "inductor")  # type: ignore[union-attr]
            differ = _differ(losses(plain, _STEPS), losses(other, _STEPS))
        breaks = sum(utils.counters["graph_break"].values())
        figures = {"relative_difference": differ, "graph_breaks": float(breaks)}
        said = f"{breaks} graph breaks"
        if device.type == "cpu":
            said += "; traced and not compiled on a CPU"
        else:
            before, after = (seconds_of(lambda one=one: losses(one, 1), device) for one in (plain, other))  # type: ignore[misc]
            figures["speedup"] = before / after
            said += f", {before / after:.2f} times as fast"
        yield judged(f"torch.compile, {kind}", differ <= 10 * TOLERANCE, said, **figures)


def augmentation(device: torch.device, sizes: Sizes, base: Path) -> Iterator[CheckResult]:
    """Augmentation in both modes against the CPU's, sample by sample."""
    grid = tuple(size + 4 for size in sizes.crop)
    contract = PreprocessingContract(grid=grid)  # type: ignore[arg-type]
    stored = torch.randint(-900, 900, (sizes.rows, 1, *grid), generator=torch.Generator().manual_seed(0)).short()
    seeds = torch.arange(sizes.rows)
    for mode in ("separable", "exact"):
        name = f"augmentation, {mode}"
        if device.type == "cpu":
            yield skipped(name, _NO_GPU)
            continue
        change = VolumeAugmentation(contract, AugmentationConfig(crop=sizes.crop, mode=mode))
        expected, found = change(stored, seeds), change(stored.to(device), seeds).cpu()
        differ = (expected - found).abs()
        # A coordinate that is rounded to the other side of a voxel or of the border changes that voxel alone.
        share = float((differ > 1e-3).float().mean())
        yield judged(name, share < 1e-3, f"{share:.1e} of the voxels differ", share=share, largest=float(differ.max()))


def gradient_cache(device: torch.device, sizes: Sizes, base: Path) -> Iterator[CheckResult]:
    """The gradient of micro-batches against that of the full batch."""
    found = []
    for micro_batch in (None, 2):
        with exact_float32():
            subject = alignment(device, sizes, base, micro_batch)
            subject.loss(0).backward()
        found.append(
            torch.cat([value.grad.flatten() for value in subject.module.parameters() if value.grad is not None])
        )
    differ = float((found[0] - found[1]).norm() / found[0].norm())
    yield judged("gradient cache", differ <= TOLERANCE, f"differs by {differ:.1e}", relative_difference=differ)


def resumption(device: torch.device, sizes: Sizes, base: Path) -> Iterator[CheckResult]:
    """Four steps in one go against two, a checkpoint in a file, and two more."""
    whole, parts = (classification(device, sizes, base) for _ in range(2))
    optimizers = [torch.optim.AdamW(one.module.parameters(), lr=1e-3) for one in (whole, parts)]

    def steps(which: int, count: int) -> None:
        for number in range(count):
            subject, optimizer = (whole, parts)[which], optimizers[which]
            optimizer.zero_grad()
            subject.loss(number).backward()
            optimizer.step()

    with exact_float32():
        steps(0, 4)
        steps(1, 2)
        path = base.parent / "resumed.ckpt"
        torch.save({"module": parts.module.state_dict(), "optimizer": optimizers[1].state_dict()}, path)
        stored = torch.load(path, map_location="cpu", weights_only=True)
        parts = classification(device, sizes, base)
        parts.module.load_state_dict(stored["module"])
        optimizers[1] = torch.optim.AdamW(parts.module.parameters(), lr=1e-3)
        optimizers[1].load_state_dict(copy.deepcopy(stored["optimizer"]))
        steps(1, 2)
    differ = max(
        float((one - other).detach().abs().max())
        for one, other in zip(whole.module.parameters(), parts.module.parameters(), strict=True)
    )
    yield judged("resume", differ <= 1e-5, f"weights differ by {differ:.1e}", largest=differ)


def host_syncs(device: torch.device, sizes: Sizes, base: Path) -> Iterator[CheckResult]:
    """How often a step of each stage waits for the device; the image stage does once, and says why."""
    for stage, make in STAGES.items():
        name = f"host syncs, {stage}"
        if device.type == "cpu":
            yield skipped(name, _NO_GPU)
            continue
        subject = make(device, sizes, base)
        subject.loss(0).backward()
        torch.cuda.synchronize(device)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                subject.loss(1).backward()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        count = sum("synchroniz" in str(warning.message) for warning in seen)
        allowed = 2 if stage == "image" else 0
        yield judged(name, count <= allowed, f"{count} a step", syncs=float(count))
