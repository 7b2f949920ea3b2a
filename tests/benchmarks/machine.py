"""What a benchmark ran on, how fast its memory is, and how much of it a process holds."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import litdata
import monai
import numpy as np
import SimpleITK
import torch
import torchio


def describe_machine() -> dict[str, Any]:
    """Processor, cores, load and versions, as plain data."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": len(allowed_cores()),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "monai": monai.__version__,
        "torchio": torchio.__version__,
        "litdata": litdata.__version__,
        "load_average": load_average(),
    }


def load_average() -> float | None:
    """Runnable processes of the last minute; well above what the benchmark uses, others were competing."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def allowed_cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@contextmanager
def one_core(number: int = 0) -> Iterator[None]:
    """Keep this process on one of its cores and every library on one thread, while the block lasts."""
    cores, threads = allowed_cores(), torch.get_num_threads()
    itk_threads = SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads()
    torch.set_num_threads(1)
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    _keep_on({cores[number % len(cores)]})
    try:
        yield
    finally:
        _keep_on(set(cores))
        torch.set_num_threads(threads)
        SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(itk_threads)


def _keep_on(cores: set[int]) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def copy_bandwidth(megabytes: int, repeats: int = 15) -> float:
    """Bytes read and written per second by a copy of so many megabytes on one core: best of `repeats`."""
    source = np.ones(megabytes << 20, dtype=np.uint8)
    target = np.empty_like(source)
    return 2 * source.nbytes / min(_seconds(np.copyto, target, source) for _ in range(repeats))


def copy_seconds(arrays: list[np.ndarray], repeats: int = 5) -> float:
    """Seconds for a memory copy of all arrays, each to memory of its own: median of `repeats`."""
    return statistics.median(_seconds(lambda: [array.copy() for array in arrays]) for _ in range(repeats))


def _seconds(function: Any, *arguments: Any) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def forget_cached(folder: Path) -> bool:
    """Ask the kernel to drop the files of a folder from its page cache, so that the next read comes from the disk.

    Needs no privileges. The disk, or the host of a virtual machine, may keep a copy of its own.

    Returns:
        False where the platform cannot be asked.
    """
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)
    return True


def resident_mb() -> dict[str, float]:
    """Memory of this process in MB: all that is resident, and the part that is its own rather than mapped files."""
    fields = _memory_mb()
    return {name: fields[key] for name, key in (("resident", "VmRSS"), ("own", "RssAnon")) if key in fields}


def forget_peak() -> None:
    """Let the peak of resident memory start anew from what is resident now, where the kernel knows how."""
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")


def peak_mb() -> float:
    """Peak of resident memory in MB since the process began or `forget_peak`; NaN where it cannot be read."""
    return _memory_mb().get("VmHWM", float("nan"))


def _memory_mb() -> dict[str, float]:
    """The kernel's figures on the memory of this process; empty where there are none."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return {}
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return {key: int(value.split()[0]) / 1024 for key, value in fields.items() if value.endswith(" kB")}
