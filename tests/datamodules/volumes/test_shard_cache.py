"""The bounded cache: what makes room lies in one small part of it, whatever its size, and its bound is kept."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from datamodules.errors import DataError
from datamodules.volumes import shard_cache
from datamodules.volumes.shard_cache import ShardCache


@pytest.fixture
def small_rooms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_cache, "ROOM_BYTES", 1000)


def _fetch(cache: ShardCache, number: int, size: int = 100, home: str = "kidney") -> Path:
    shard = cache.root / home / f"{number:016x}.bin"
    shard.parent.mkdir(exist_ok=True)
    cache.admit(shard, size)
    shard.write_bytes(b"x" * size)
    return shard


def _bytes(root: Path) -> int:
    return sum(path.stat().st_size for path in root.glob("*/*.bin"))


@pytest.mark.usefixtures("small_rooms")
def test_the_bound_is_kept_over_all_rooms_and_volume_sets(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 20_500)
    assert cache.count == 20
    for number in range(600):
        _fetch(cache, number, 60 + number % 80, "kidney" if number % 3 else "abdomen")
        assert _bytes(tmp_path) <= 20_500
    assert _bytes(tmp_path) > 0.85 * 20_500


@pytest.mark.slow
@pytest.mark.usefixtures("small_rooms")
def test_who_makes_room_looks_through_one_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    held = ShardCache._held
    monkeypatch.setattr(
        ShardCache, "_held", lambda self, folder: looked.append(len(held(self, folder))) or held(self, folder)
    )
    most = []
    for limit in (10_000, 200_000):
        cache, looked[:] = ShardCache(tmp_path / str(limit), limit), []
        cache.root.mkdir()
        for number in range(limit // 60):
            _fetch(cache, number)
        most.append(max(looked))
    assert max(most) <= 10  # of a thousand bytes, in a cache of ten rooms as in one of two hundred


def test_what_was_read_last_of_those_done_with_makes_room(tmp_path: Path) -> None:
    cache, now = ShardCache(tmp_path, 300), time.time()
    shards = [_fetch(cache, number) for number in range(3)]
    for shard, age in zip(shards, (300.0, 200.0, 10.0), strict=True):
        os.utime(shard, (now - age, now - age))
    _fetch(cache, 3)
    assert [shard.is_file() for shard in shards] == [True, False, True]
    for shard in shards:
        if shard.is_file():
            os.utime(shard)
    os.utime(shards[0], (now - 5, now - 5))
    _fetch(cache, 4)  # nothing is done with: the one read first goes
    assert [shard.is_file() for shard in shards] == [False, False, True]


def test_of_shards_that_are_read_in_order_the_first_makes_room(tmp_path: Path) -> None:
    cache, now = ShardCache(tmp_path, 300, in_order=True), time.time()
    shards = [_fetch(cache, number) for number in range(3)]
    for shard, age in zip(shards, (300.0, 200.0, 100.0), strict=True):
        os.utime(shard, (now - age, now - age))
    _fetch(cache, 3)
    assert [shard.is_file() for shard in shards] == [False, True, True]


def test_shards_from_before_are_counted(tmp_path: Path) -> None:
    before = [ShardCache(tmp_path, None).root / "kidney" / f"{number:016x}.bin" for number in range(5)]
    (tmp_path / "kidney").mkdir()
    for age, shard in enumerate(before):
        shard.write_bytes(b"x" * 100)
        os.utime(shard, (time.time() - 100 + age,) * 2)
    cache = ShardCache(tmp_path, 300)
    cache.adopt()
    assert _bytes(tmp_path) == 300
    _fetch(cache, 77)
    assert _bytes(tmp_path) == 300
    cache.adopt()
    assert _bytes(tmp_path) == 300


def test_a_note_of_a_killed_process_is_forgotten(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 300)
    lost = tmp_path / "kidney" / f"{9:016x}.bin"
    lost.parent.mkdir()
    cache.admit(lost, 250)  # noted, and never moved into place
    (note,) = cache.rooms.glob("*/*,*,250")
    os.utime(note, (time.time() - 120,) * 2)
    kept = [_fetch(cache, number) for number in range(3)]
    assert all(shard.is_file() for shard in kept)
    assert not note.is_file()


@pytest.mark.usefixtures("small_rooms")
def test_a_shard_larger_than_a_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 1200 bytes, more than the cache_size of 5000 in 5 rooms"):
        _fetch(ShardCache(tmp_path, 5000), 0, 1200)
