"""Loaders: one that names a worker that died, and one that begins in the midst of an epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import DataLoader

from datamodules.errors import DataError

_ENDS_WITHIN_S = 1.0
"""A killed worker is counted as ended by then; its connection breaks at once."""


class WatchedLoader(DataLoader[Any]):
    """A DataLoader that names the worker that died where the loss of its connection is noticed first.

    A batch is handed over through a socket of its worker. One that is killed in the midst of that leaves a broken
    connection before the system counts it as ended, and DataLoader then passes on what says nothing of a worker.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        iterator = super().__iter__()
        try:
            yield from iterator
        except (ConnectionError, EOFError) as error:
            raise named_death(getattr(iterator, "_workers", ()), error) from error


def named_death(workers: Iterable[Any], error: Exception) -> Exception:
    """DataLoader's own error for workers that died, or the error itself where all of them live.

    Args:
        workers: Processes.
        error: What was raised.
    """
    for worker in workers:
        worker.join(_ENDS_WITHIN_S)
    dead = [str(worker.pid) for worker in workers if not worker.is_alive()]
    return RuntimeError(f"DataLoader worker (pid(s) {', '.join(dead)}) exited unexpectedly") if dead else error


class ResumableLoader(WatchedLoader):
    """A DataLoader over an `EvenBatchSampler` that can begin in the midst of an epoch.

    Lightning saves its state with a checkpoint and gives it back before the first batch. Workers are asked for batches
    only when the first one is wanted, so that the sampler knows its epoch by then.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._given = self._start = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self._given, self._start = self._start, 0
        self.batch_sampler.start = self._given  # type: ignore[union-attr]
        for batch in super().__iter__():
            self._given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How many batches of this epoch were given, 0 at its end, and how many of them are a step."""
        return {"batches": self._given % len(self), "parts": self._parts}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Leave out the batches of the next epoch that were given already.

        Raises:
            DataError: if it was left in the midst of an epoch whose steps had another number of batches.
        """
        parts = int(state.get("parts", 1))
        if state["batches"] and parts != self._parts:
            raise DataError(
                f"The checkpoint was written in the midst of an epoch, with {parts} batches a step on each device, "
                f"and this run has {self._parts}. Go on with as many devices and the same data.init_args.device_batch "
                "until the epoch is over; after that both may change."
            )
        self._start = int(state["batches"])

    @property
    def _parts(self) -> int:
        return self.batch_sampler.parts  # type: ignore[union-attr]
