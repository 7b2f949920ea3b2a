"""Volumes fetched one by one: their own bytes alone, a bounded cache, and a store that is busy or breaks off."""

from __future__ import annotations

import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from datamodules.errors import DataError
from datamodules.volumes import object_store, shard_cache
from datamodules.volumes.object_store import ShardStore
from datamodules.volumes.shards import VolumeSet

Remote = tuple[Path, str]


@pytest.fixture
def ranges(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of every ranged request."""
    lengths: list[int] = []
    read = ShardStore._range

    def spy(self: ShardStore, shard: str, start: int, length: int) -> bytes:
        lengths.append(length)
        return read(self, shard, start, length)

    monkeypatch.setattr(ShardStore, "_range", spy)
    return lengths


def _there(remote: Remote, cache: Path, size: str | None = None) -> VolumeSet:
    return VolumeSet.find(remote[0], url=remote[1], cache=cache, cache_size=size, by_volume=True)


@pytest.mark.slow
def test_a_volume_costs_its_own_bytes_once(remote: Remote, tiny_root: Path, tmp_path: Path, ranges: list[int]) -> None:
    local, there = VolumeSet.find(tiny_root), _there(remote, tmp_path / "cache")
    order = np.random.default_rng(0).permutation(len(there))
    for _ in range(2):
        for position in order:
            np.testing.assert_array_equal(there.read(int(position)), local.read(int(position)))
    size = local.read(0).nbytes
    assert Counter(length == size for length in ranges) == {True: len(there), False: there.index["shard"].nunique()}
    tables = sum(ranges) - size * len(there)
    assert tables == 4 * (len(there) + there.index["shard"].nunique())
    again = _there(remote, tmp_path / "cache")
    ranges.clear()
    np.testing.assert_array_equal(again.read(3), local.read(3))
    assert ranges == []


@pytest.mark.slow
def test_a_bounded_cache_of_volumes_looks_through_a_room_of_them(
    remote: Remote, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = VolumeSet.find(tiny_root)
    size = local.read(0).nbytes
    monkeypatch.setattr(shard_cache, "_VOLUMES", 4)
    there = _there(remote, tmp_path / "cache", f"{40 * size / 1000:.3f}KB")
    assert there._store is not None
    assert there._store.cache.count == 10
    looked: list[int] = []
    held = shard_cache.ShardCache._held

    def spy(self: shard_cache.ShardCache, folder: Path) -> object:
        found = held(self, folder)
        looked.append(len(found))
        return found

    monkeypatch.setattr(shard_cache.ShardCache, "_held", spy)
    for position in range(len(there)):
        np.testing.assert_array_equal(there.read(position), local.read(position))
    kept = list((tmp_path / "cache").glob("*/*.volume"))
    assert 20 <= len(kept) <= 40
    assert max(looked) <= 4


@pytest.mark.slow
def test_a_damaged_copy_is_fetched_again(remote: Remote, tiny_root: Path, tmp_path: Path) -> None:
    local = VolumeSet.find(tiny_root)
    expected = local.read(5)
    _there(remote, tmp_path / "cache").read(5)
    (copy,) = (tmp_path / "cache").glob("*/*.volume")
    for content in (b"", b"\0" * expected.nbytes, copy.read_bytes()[:-2]):
        copy.write_bytes(content)
        np.testing.assert_array_equal(_there(remote, tmp_path / "cache").read(5), expected)


@dataclass
class Fickle:
    """What a server in front of the store does to requests, by their number.

    Args:
        busy: Every how many-th request is answered with 503 Slow Down.
        cut: Every how many-th answer ends in its midst.
        always: Whether no request is served.
    """

    busy: int = 0
    cut: int = 0
    always: bool = False
    seen: int = 0
    done: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)


@pytest.fixture
def fickle(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fickle]:
    behaviour = Fickle()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            with behaviour.lock:
                behaviour.seen += 1
                number = behaviour.seen
            busy = behaviour.always or (behaviour.busy and number % behaviour.busy == 0)
            if busy:
                behaviour.done["busy"] += 1
                body = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
                self._answer(503, body, {"Content-Type": "application/xml"}, len(body))
                return
            asked = urllib.request.Request(endpoint + self.path, headers=dict(self.headers), method=self.command)
            with urllib.request.urlopen(asked) as answer:
                body, status, headers = answer.read(), answer.status, dict(answer.headers)
            cut = behaviour.cut and number % behaviour.cut == 0 and len(body) > 100
            behaviour.done["cut" if cut else "served"] += 1
            length = int(headers.get("Content-Length", len(body)))
            self._answer(status, body[: len(body) // 2] if cut else body, headers, length)
            self.close_connection = bool(cut)

        def _answer(self, status: int, body: bytes, headers: dict[str, str], length: int) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "connection", "transfer-encoding", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(object_store, "_PAUSE_S", 0.01)
    yield behaviour
    server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("by_volume", [True, False])
def test_a_store_that_is_busy_and_breaks_off_gives_every_volume(
    remote: Remote, tiny_root: Path, tmp_path: Path, fickle: Fickle, by_volume: bool
) -> None:
    fickle.busy, fickle.cut = 7, 5
    local = VolumeSet.find(tiny_root)
    there = VolumeSet.find(remote[0], url=remote[1], cache=tmp_path / "cache", by_volume=by_volume)
    for position in range(0, len(there), 4):
        np.testing.assert_array_equal(there.read(position), local.read(position))
    assert fickle.done["busy"] > 3
    assert fickle.done["cut"] > 3


@pytest.mark.slow
def test_a_store_that_never_serves_is_told(remote: Remote, tmp_path: Path, fickle: Fickle) -> None:
    fickle.always = True
    with pytest.raises(DataError, match=r"could not be fetched from s3://.*The store did not answer"):
        _there(remote, tmp_path / "cache").read(0)
    assert list((tmp_path / "cache").glob("*/*.volume")) == []
