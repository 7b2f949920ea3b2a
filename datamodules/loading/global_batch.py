"""How the samples of a step are shared among devices: the batch is that of all of them, however many there are."""

from __future__ import annotations

from typing import NamedTuple

from datamodules.errors import DataError


class Share(NamedTuple):
    """What one rank computes of a step.

    Args:
        rows: Samples of a full step.
        parts: Batches that they are computed in, one after the other, whose gradients are averaged.
    """

    rows: int
    parts: int


def share_of_step(batch_size: int, ranks: int, device_batch: int | None = None) -> Share:
    """Divide a step among ranks, and a rank's share into parts that fit its memory.

    A run that is resumed on another number of devices goes on with the same steps: what a step holds does not depend
    on them.

    Args:
        batch_size: Samples of a step over all ranks.
        ranks: Number of ranks.
        device_batch: Most samples that a rank computes at once; all of its share when left out.

    Raises:
        DataError: if a number is not positive, or the step does not divide among the ranks.
    """
    if batch_size < 1 or (device_batch is not None and device_batch < 1):
        raise DataError(
            f"data.init_args.batch_size={batch_size} and device_batch={device_batch} were found; expected at least 1, "
            "and at least 1 or nothing."
        )
    if batch_size % ranks:
        fitting = [count for count in range(1, min(batch_size, 2 * ranks) + 1) if batch_size % count == 0]
        raise DataError(
            f"data.init_args.batch_size={batch_size}, the samples of a step over all devices, does not divide among "
            f"{ranks} devices. Take {', '.join(map(str, fitting))} of them with DEVICES= (and NODES=), or another "
            f"batch_size, for example {-(-batch_size // ranks) * ranks}."
        )
    rows = batch_size // ranks
    return Share(rows, 1 if device_batch is None else -(-rows // device_batch))
