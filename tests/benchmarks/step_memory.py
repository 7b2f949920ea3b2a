"""How much memory a training step takes at its peak, in a process of its own."""

from __future__ import annotations

import multiprocessing
from typing import Any

from datamodules.processes import fresh_process
from lightning_modules.networks.image.encoders import EncoderConfig
from tests.benchmarks.machine import forget_peak, peak_mb
from tests.benchmarks.steps import bare_step, make_batch, make_module


def peak_memory_mb(config: EncoderConfig, crop: tuple[int, int, int], size: int) -> float:
    """How much the resident memory of a fresh process rises at its peak over two steps, in MB; NaN but on Linux."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = fresh_process(_measure, sender, config, crop, size)
    process.start()
    sender.close()  # so that a process that dies is an end of file here, and no wait for ever
    value: float = receiver.recv()
    process.join()
    return value


def _measure(sender: Any, config: EncoderConfig, crop: tuple[int, int, int], size: int) -> None:
    module, batch = make_module(config), make_batch(crop, size)
    bare_step(module, make_batch((8, 16, 16), 2))()  # libraries and optimiser state are not what is asked
    forget_peak()
    before = peak_mb()
    step = bare_step(module, batch)
    for _ in range(2):
        step()
    sender.send(peak_mb() - before)
