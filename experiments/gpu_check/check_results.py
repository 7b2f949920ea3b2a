"""What a check found, and how a device is asked for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch

from experiments.gpu_check.subjects import Subject

Status = Literal["PASS", "FAIL", "skipped"]
_LR = 3e-3
_COMPARED_LR = 1e-2


@dataclass(frozen=True)
class CheckResult:
    """What one check found.

    Args:
        name: The check.
        status: PASS, FAIL, or skipped with the reason in `said`.
        said: In words.
        figures: Numbers by name, with units in the names.
        seconds: Time that it took.
    """

    name: str
    status: Status
    said: str
    figures: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def judged(name: str, passed: bool, said: str, **figures: float) -> CheckResult:
    """A check that passed or failed."""
    return CheckResult(name, "PASS" if passed else "FAIL", said, figures)


def skipped(name: str, reason: str) -> CheckResult:
    """A check that cannot be done here."""
    return CheckResult(name, "skipped", reason)


def losses(subject: Subject, steps: int, dtype: torch.dtype | None = None) -> list[float]:
    """Loss of some steps on one batch.

    Args:
        subject: Stage; its weights move.
        steps: Number of steps.
        dtype: Half precision by autocast and AdamW, float16 with a scaler; single precision and plain gradient descent
            when left out.
    """
    kind = subject.module.device.type
    parameters = [value for value in subject.module.parameters() if value.requires_grad]
    # Adam takes a step of full length along a gradient that is mere rounding; what is compared moves by plain descent.
    optimizer: torch.optim.Optimizer = (
        torch.optim.SGD(parameters, lr=_COMPARED_LR) if dtype is None else torch.optim.AdamW(parameters, lr=_LR)
    )
    scaler = torch.amp.GradScaler(kind, enabled=dtype == torch.float16)
    found = []
    for number in range(steps):
        with torch.autocast(kind, dtype) if dtype is not None else nullcontext():
            loss = subject.loss(number)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        found.append(loss.detach())
    return torch.stack(found).float().tolist()


@contextmanager
def exact_float32() -> Iterator[None]:
    """Single precision without TF32, which rounds to ten bits; what was set before comes back."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products


def seconds_of(work: Callable[[], object], device: torch.device, rounds: int = 3) -> float:
    """Least seconds of some rounds, after one that is not counted."""
    work()
    best = float("inf")
    for _ in range(rounds):
        _wait(device)
        started = time.perf_counter()
        work()
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
