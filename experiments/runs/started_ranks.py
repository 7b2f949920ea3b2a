"""Who started the processes of a run: Lightning itself, torchrun, or SLURM."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from callbacks.requeue import requeue_on_signal
from datamodules.errors import DataError

_PATIENCE_S = 3600


def check_launcher(nodes: int, mode: str = "finetune") -> None:
    """Refuse several nodes where nothing started a process on each of them; in a SLURM job, heed its time limit.

    Lightning starts the processes of one machine by itself. Over machines somebody else has to, and says so in the
    environment: torchrun, or srun within a job.

    Args:
        nodes: Machines that were asked for.
        mode: What is trained; a `probe` is fitted in one process.

    Raises:
        DataError: if they are fewer than one, or several without a launcher, or a probe was started as several
            processes.
    """
    if nodes < 1:
        raise DataError(f"NODES={nodes} was asked for; expected at least 1.")
    requeue_on_signal()
    if mode == "probe" and started_ranks() > 1:
        raise DataError(
            f"MODE=probe was started as {started_ranks()} processes; a linear model is fitted in one, the others would "
            "repeat it. Leave LAUNCH= and NODES= out, or ask SLURM for one task."
        )
    if nodes == 1 or TorchElasticEnvironment.detect():
        return
    if not SLURMEnvironment.detect():
        raise DataError(
            f"NODES={nodes} was asked for, and neither torchrun nor srun started this process, so no other machine "
            "would ever join. Name what starts it: LAUNCH='torchrun --nnodes=2 ...', or submit cluster/train.sbatch."
        )


def started_ranks() -> int:
    """Processes that torchrun or srun started for this command; 1 where neither did."""
    if TorchElasticEnvironment.detect():
        return int(os.environ["WORLD_SIZE"])
    return int(os.environ["SLURM_NTASKS"]) if SLURMEnvironment.detect() else 1


def wait_for_main(what: str, there: Callable[[], bool]) -> None:
    """Wait on a rank other than the first for what rank 0 writes before the ranks know of each other.

    A rank 0 that fails ends the others through whoever started them.

    Args:
        what: What is waited for.
        there: Whether it is there.

    Raises:
        DataError: if it is not there after an hour.
    """
    started = time.monotonic()
    while not there():
        if time.monotonic() - started > _PATIENCE_S:
            raise DataError(f"Rank 0 wrote no {what} within an hour; its own message says why. Run the command again.")
        time.sleep(1)
