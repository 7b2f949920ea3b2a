"""What an epoch from an object store costs: bytes, requests, and processor time of the cache, in cohorts of any size.

    python -m tests.benchmarks.store --patients=6867 --patients=165000

A store that answers at once stands for S3, so that what is timed is the suite's own work. Every patient has two kidneys
in three phases of 1.6 MB (40 x 140 x 140); files in the cache are small ones, counted as the sizes that they stand for.
The cache holds a tenth of the set. It is filled first, then a part of an epoch is read.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.loading.sampling import Draw, VisitSampler
from datamodules.loading.shard_order import ShardSampler
from datamodules.volumes.object_store import ShardStore

EACH, PHASES = 6, 3
VOLUME_MB = 2 * 40 * 140 * 140 / 1e6
_SMALL = 64
"""Bytes of a volume's stand-in."""
_DRAWS = 4000


class _Client:
    """Answers with as many bytes as were asked for, and counts."""

    def __init__(self) -> None:
        self.requests = self.volumes = 0

    def download_fileobj(self, url: str, handle: Any) -> None:
        self.requests += 1
        self.volumes += EACH
        handle.write(bytes(EACH * _SMALL))

    def download_bytes(self, url: str, start: int, length: int, path: str) -> bytes:
        self.requests += 1
        if length == _SMALL:
            self.volumes += 1
            return bytes(length)
        return np.arange(_SMALL, _SMALL * (EACH + 2), _SMALL, dtype=np.uint32).tobytes()  # the table of a shard


class _Store(ShardStore):
    """A store without a network."""

    client: _Client

    def _client(self) -> Any:
        if not hasattr(self, "client"):
            self.client = _Client()
        return self.client


def _order(patients: int, buffer: int | None) -> Any:
    """The draws of the second epoch: one phase of every kidney."""
    volumes = [list(range(first, first + PHASES)) for first in range(0, EACH * patients, PHASES)]
    visits = VisitSampler(volumes, ["a"] * len(volumes), 0)
    shards = np.arange(EACH * patients) // EACH
    order = visits if buffer is None else ShardSampler(visits, shards, buffer)
    order.set_epoch(1)
    return order


def _read(store: _Store, draw: Draw) -> None:
    shard, number = divmod(int(draw.position), EACH)
    name = f"{shard:016x}.bin"
    if store.volume_bytes is None:
        store.fetch(name)
    else:
        store.volume(name, number, EACH)


def _filled(store: _Store, patients: int, rng: np.random.Generator) -> None:
    """Put a tenth of the set into the cache, as earlier epochs would have."""
    store.home.mkdir(parents=True, exist_ok=True)
    unit = 1 if store.volume_bytes is not None else EACH
    held = rng.choice(EACH * patients // unit, EACH * patients // unit // 10, replace=False)
    for number in held.tolist():
        shard, place = (number, 0) if unit == EACH else divmod(number, EACH)
        name = f"{shard:016x}.bin"
        path = store.home / name if unit == EACH else store._copy(name, place)
        path.write_bytes(bytes(unit * _SMALL))
        folder = store.cache._room(path)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{path.parent.name},{path.name},{unit * _SMALL}").touch()


def measure(patients: int, way: str) -> dict[str, Any]:
    """One way of reading: `shards` in any order, `volumes` in any order, or shards in `order`.

    Returns:
        MB and requests of an epoch, estimated from a part of it; processor ms and fetches a second.
    """
    size = EACH * patients * _SMALL // 10
    with tempfile.TemporaryDirectory() as folder:
        store = _Store(
            "s3://bench/set", Path(folder) / "set", Path(folder) / "cache", f"{size / 1000:.3f}KB", way == "order",
            _SMALL if way == "volumes" else None,
        )  # fmt: skip
        if way != "volumes":  # rooms as they would be at the volumes' true size
            store.cache.count = max(1, min(1024, int(EACH * patients * VOLUME_MB / 10 / 2147)))
        store.cache.rooms.mkdir(parents=True)
        (store.cache.rooms / f"of-{store.cache.count}").touch()
        _filled(store, patients, np.random.default_rng(0))
        draws = list(islice(iter(_order(patients, 2000 if way == "order" else None)), _DRAWS))
        wall, processor = time.perf_counter(), time.process_time()
        for draw in draws:
            _read(store, draw)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        client, share = store.client, 2 * patients / len(draws)
        return {
            "patients": patients,
            "way": way,
            "epoch_gb": round(client.volumes * VOLUME_MB * share / 1000, 1),
            "epoch_requests": round(client.requests * share),
            "processor_ms_a_fetch": round(1000 * processor / max(1, client.requests), 3),
            "fetches_per_second": round(client.requests / wall),
        }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, action="append", default=[])
    for patients in parser.parse_args().patients or [6867, 165000]:
        for way in ("shards", "order", "volumes"):
            print(json.dumps(measure(patients, way)), flush=True)


if __name__ == "__main__":
    main()
