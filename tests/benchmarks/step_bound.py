"""What bounds a training step: its multiplications and the memory traffic of its operators, against the machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import flop_registry

KINDS = ("convolutions", "normalisation", "everything else")


def kind_of(operator: str) -> str:
    """The kind of an operator, by its name."""
    if "convolution" in operator or "conv" in operator:
        return KINDS[0]
    return KINDS[1] if "norm" in operator else KINDS[2]


@dataclass
class Work:
    """What the operators of one kind have to do in a step."""

    flop: float = 0.0
    bytes: float = 0.0
    floor_seconds: float = 0.0


@dataclass
class Counter(TorchDispatchMode):
    """Counts the work of every operator below autograd, forward, backward and optimiser.

    An operator reads its inputs and writes its outputs once; views move nothing. Its floor is the larger of the time
    of its arithmetic and of its traffic (the roofline of Williams et al., Communications of the ACM 2009).

    Args:
        flop_per_second: What the machine reaches in a matrix product.
        bytes_per_second: What it reads and writes in a copy.
    """

    flop_per_second: float
    bytes_per_second: float
    work: dict[str, Work] = field(default_factory=lambda: {name: Work() for name in KINDS})

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator and count it."""
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            values = [*tree_flatten((args, kwargs))[0], *tree_flatten(out)[0]]
            moved = sum(value.numel() * value.element_size() for value in values if isinstance(value, torch.Tensor))
            formula = flop_registry.get(func.overloadpacket)
            flop = formula(*args, **(kwargs or {}), out_val=out) if formula else 0
            work = self.work[kind_of(func.name())]
            work.flop += flop
            work.bytes += moved
            work.floor_seconds += max(flop / self.flop_per_second, moved / self.bytes_per_second)
        return out


def peak_flop_per_second(size: int = 512, repeats: int = 100) -> float:
    """Floating-point operations a second of a product of two square matrices on all threads: best of `repeats`."""
    left, right = torch.rand(size, size), torch.rand(size, size)
    return 2 * size**3 / _best(lambda: torch.mm(left, right), repeats)


def peak_bytes_per_second(megabytes: int = 64, repeats: int = 30) -> float:
    """Bytes read and written a second by a copy on all threads: best of `repeats`."""
    source = torch.rand(megabytes << 18)
    target = torch.empty_like(source)
    return 2 * 4 * source.numel() / _best(lambda: target.copy_(source), repeats)


def _best(function: Callable[[], Any], repeats: int) -> float:
    """Least seconds of a call on all threads, by the processor's clock, which others on the machine do not hold up."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return min(seconds[1:]) / torch.get_num_threads()


def time_shares(step: Callable[[], None], repeats: int = 2) -> dict[str, float]:
    """Share of the operators' time in a step by kind."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(repeats):
            step()
    total = dict.fromkeys(KINDS, 0.0)
    for event in profiled.key_averages():
        total[kind_of(event.key)] += event.self_cpu_time_total
    return {name: value / sum(total.values()) for name, value in total.items()}


def measure_step_bound(step: Callable[[], None], step_seconds: float, volumes: int) -> dict[str, Any]:
    """How near a step is to what arithmetic and memory of this machine allow.

    Args:
        step: Does one step.
        step_seconds: What a step took, undisturbed.
        volumes: Volumes in a step.

    Returns:
        By kind of operator and in all: GFLOP and MB moved a volume, the least milliseconds, the measured share of
        time; and the share of the measured time that the least is.
    """
    flop, moved = peak_flop_per_second(), peak_bytes_per_second()
    shares = time_shares(step)
    with Counter(flop, moved) as counter:
        step()
    kinds = {
        name: {
            "gflop_a_volume": work.flop / volumes / 1e9,
            "mb_moved_a_volume": work.bytes / volumes / 1e6,
            "least_ms_a_volume": 1000 * work.floor_seconds / volumes,
            "ms_a_volume": 1000 * step_seconds * shares[name] / volumes,
            "share_of_time": shares[name],
        }
        for name, work in counter.work.items()
    }
    least = sum(work.floor_seconds for work in counter.work.values())
    total_flop = sum(work.flop for work in counter.work.values())
    return {
        "machine_gflop_per_second": flop / 1e9,
        "machine_gb_per_second": moved / 1e9,
        "kinds": kinds,
        "least_ms_a_volume": 1000 * least / volumes,
        "ms_a_volume": 1000 * step_seconds / volumes,
        "share_achieved": least / step_seconds,
        "gflop_per_second": total_flop / step_seconds / 1e9,
        "share_of_machine_gflop": total_flop / step_seconds / flop,
    }
