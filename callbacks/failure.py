"""How a run over several processes ends when one of them fails: all of them, soon, with the cause named."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading

import lightning
from lightning.pytorch.callbacks import Callback

from callbacks.divergence import DivergedError
from callbacks.interruption import TERMINATED, Terminated, chain, end_at_once
from callbacks.requeue import Requeued

GRACE_S = 60.0
"""Seconds that rank 0 has to close its logs before it is ended: on a GPU it may wait for a rank that is no more."""

_AGAIN = "Run the same command again; it goes on from the last checkpoint."
_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) (?:is killed|exited)[^\n]*")
_PEER = re.compile(r"closed by peer|reset by peer|broken pipe|nccl[^\n]*(?:remote|aborted|timeout)|timed out", re.I)
_CAUGHT = re.compile(r"Caught (\w+) in DataLoader worker process \d+")


def failure_sentence(error: BaseException) -> str | None:
    """What stopped a run and what to do, in one line.

    Args:
        error: What was raised; the errors that it came from are looked at too, the first one first.

    Returns:
        The sentence; None for a defect, whose trace is wanted.
    """
    for cause in reversed(chain(error)):
        text = str(cause)
        if isinstance(cause, DivergedError):
            return text
        if match := _WORKER.search(text):
            return (
                f"A loader worker died ({match[0].strip().rstrip('.')}). A worker that is killed most often found no "
                "memory: lower data.init_args.num_workers or data.init_args.batch_size, or give the job more memory. "
                f"{_AGAIN}"
            )
        if match := _CAUGHT.search(text):
            lines = [line for line in text.splitlines() if line.strip()]
            own = next((line for line in reversed(lines) if re.match(rf"[\w.]*{match[1]}: ", line)), lines[-1])
            return own.split(": ", 1)[-1].strip()
    if isinstance(error, RuntimeError) and _PEER.search(str(error)):
        return f"Another rank failed or no longer answers; its own message, above or in its log, says why. {_AGAIN}"
    return None


class EndTogether(Callback):
    """Ends all ranks of a run when one of them fails.

    A rank that fails ends the ranks that it launched and says why; any but rank 0 then ends at once, since cleaning up
    may wait for the others, which wait for it in a collective. Where a library launched the ranks (torchrun, SLURM),
    it sees the exit code and ends the others. Does nothing in a run of one process.
    """

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """End at once on SIGTERM from here on, not as Lightning does."""
        end_at_once()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """End the other ranks, and this one."""
        causes = chain(exception)
        if trainer.world_size == 1 or any(isinstance(one, KeyboardInterrupt | Requeued) for one in causes):
            return
        terminated = any(isinstance(one, Terminated) for one in causes)
        code = TERMINATED if terminated else 1
        if trainer.global_rank > 0 and not terminated:
            sentence = failure_sentence(exception) or f"{type(exception).__name__}: {exception}"
            print(f"error on rank {trainer.global_rank}: {sentence}", file=sys.stderr, flush=True)
        kill = getattr(trainer.strategy.launcher, "kill", None)
        if kill is not None:
            kill(signal.SIGKILL)
        if trainer.global_rank > 0:
            sys.stdout.flush()
            os._exit(code)
        timer = threading.Timer(GRACE_S, os._exit, [code])
        timer.daemon = True
        timer.start()
