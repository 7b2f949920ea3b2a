"""Several real processes for a test, each with one thread."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _run(rank: int, function: Callable[..., None], port: int, ranks: int, folder: Path, arguments: tuple[Any]) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    function(rank, folder, *arguments)
    dist.destroy_process_group()


def spawn(function: Callable[..., None], folder: Path, *arguments: Any, ranks: int = 2) -> None:
    """Call `function(rank, folder, *arguments)` on every rank of a gloo group; a failure of one is a failure here.

    Args:
        function: A function of a module, which processes can import.
        folder: Where the ranks leave their results.
        arguments: Further arguments.
        ranks: Number of processes.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_run, args=(function, port, ranks, folder, arguments), nprocs=ranks)
