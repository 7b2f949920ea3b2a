"""A bounded local cache of fetched shards, which the processes of a machine share without waiting for each other.

The cache is divided into rooms, and a shard's name says which one is its own. Who makes place looks through one room,
under that room's lock, and so needs the same time in a cache of any size. A room holds an empty file for each of its
shards, whose name says how large it is.
"""

from __future__ import annotations

import time
import zlib
from pathlib import Path

from filelock import FileLock

from datamodules.errors import DataError

SETTLED_S = 60.0
"""A shard that nobody has read for so long (seconds) is taken to be done with for this epoch."""
ROOM_BYTES = 2 << 30
"""Least size of a room: two hundred shards of kidneys, and larger than any shard."""
_MOST_ROOMS = 1024
_VOLUMES = 128
"""Volumes of a room, where volumes are fetched one by one."""


class ShardCache:
    """Makes room for shards in a folder.

    An epoch reads every patient once in random order, so the shard that was read last is the one needed last: what
    makes room is the last one read of those unread for `SETTLED_S`, else the one read first. Dropping the least
    recently used would leave half a cache with 15 % instead of 50 % of the reads.

    Args:
        root: Folder of the cache; its shards lie in folders below it, one for each volume set.
        limit: Most bytes of all shards; None keeps everything.
        in_order: Whether shards are read one after the other: those read first are done with then.
        volume_bytes: Bytes of a volume, where volumes lie here in the place of shards.
    """

    def __init__(self, root: Path, limit: int | None, in_order: bool = False, volume_bytes: int | None = None) -> None:
        self.root, self.limit, self.in_order = root, limit, in_order
        self.rooms = root / ".rooms"
        size, most = (ROOM_BYTES, _MOST_ROOMS) if volume_bytes is None else (_VOLUMES * volume_bytes, 1 << 16)
        self.count = 1 if limit is None else max(1, min(most, limit // size))

    def admit(self, shard: Path, size: int) -> None:
        """Make place for a shard that is about to be moved to its own.

        Args:
            shard: Where it will lie.
            size: Its bytes.

        Raises:
            DataError: if it is larger than the room that it would lie in.
        """
        if self.limit is None:
            return
        room = self.limit // self.count
        rooms = f" in {self.count} rooms" if self.count > 1 else ""
        if size > room:
            raise DataError(
                f"Shard {shard.name} has {size} bytes, more than the cache_size of {self.limit}"
                f"{rooms}; expected room for one shard per loader process "
                "at least. Name a larger one."
            )
        folder = self._room(shard)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            held = [entry for entry in self._held(folder) if entry[2] != shard]
            total, now = sum(entry[1] for entry in held), time.time()
            while held and total + size > room:
                settled = [] if self.in_order else [entry for entry in held if entry[0] < now - SETTLED_S]
                victim = settled[-1] if settled else held[0]
                victim[2].unlink(missing_ok=True)
                victim[3].unlink(missing_ok=True)
                held.remove(victim)
                total -= victim[1]
            (folder / f"{shard.parent.name},{shard.name},{size}").touch()

    def adopt(self) -> None:
        """Count the shards that lie here since before there were rooms, or since another bound; once."""
        if self.limit is None or (self.rooms / f"of-{self.count}").is_file():
            return
        self.rooms.mkdir(parents=True, exist_ok=True)
        with FileLock(self.rooms / ".lock"):
            for pattern in ("*/*.bin", "*/*.volume"):
                for shard in self.root.glob(pattern):
                    self.admit(shard, shard.stat().st_size)
            (self.rooms / f"of-{self.count}").touch()

    def _room(self, shard: Path) -> Path:
        number = zlib.crc32(f"{shard.parent.name}/{shard.name}".encode()) % self.count
        return self.rooms / f"{number:04d}-of-{self.count:04d}"

    def _held(self, folder: Path) -> list[tuple[float, int, Path, Path]]:
        """Time, bytes, shard and note of what a room holds, the shard read first first."""
        found = []
        for note in folder.glob("*,*,*"):
            home, name, size = note.name.split(",")
            shard = self.root / home / name
            try:
                read = shard.stat().st_mtime
            except FileNotFoundError:
                # Dropped, or on its way: its process moves it into place right after it has noted it.
                if note.stat().st_mtime < time.time() - SETTLED_S:
                    note.unlink(missing_ok=True)
                    continue
                read = time.time()
            found.append((read, int(size), shard, note))
        return sorted(found)
