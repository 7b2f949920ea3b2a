"""Shards on an object store: the same bytes, few fetches, a bounded cache, and failures that say what to do."""

from __future__ import annotations

import multiprocessing
import resource
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from datamodules.augmentation import AugmentationConfig
from datamodules.cohort.labels import Label
from datamodules.errors import DataError
from datamodules.importers.builder import build_cohort
from datamodules.tasks import RoiDataModule
from datamodules.volumes import object_store, shard_cache
from datamodules.volumes.object_store import ShardStore
from datamodules.volumes.shards import VolumeSet
from tests.tiny import CONTRACT, TinySource

Remote = tuple[Path, str]
MALIGNANCY = Label("malignancy", "malignancy", [0, 1], ["benign", "malignant"])


@contextmanager
def _stored(bucket: Any, remote: Remote, shard: str) -> Iterator[Any]:
    """The object of a shard, put back as it was afterwards."""
    stored = bucket.Object(f"{remote[1].removeprefix('s3://cohorts/')}/shards/{shard}")
    content = stored.get()["Body"].read()
    yield stored
    stored.put(Body=content)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what this process fetches from the store."""
    names: list[str] = []
    download = ShardStore._download

    def spy(self: ShardStore, name: str, path: Path) -> None:
        names.append(name)
        download(self, name, path)

    monkeypatch.setattr(ShardStore, "_download", spy)
    return names


def _shards(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/*.bin"))


def _bytes(cache: Path) -> int:
    return sum(path.stat().st_size for path in _shards(cache))


@pytest.mark.slow
def test_every_volume_is_the_local_one_and_is_fetched_once(
    remote: Remote, tiny_root: Path, tmp_path: Path, fetched: list[str]
) -> None:
    local, there = VolumeSet.find(tiny_root), VolumeSet.find(remote[0], url=remote[1], cache=tmp_path / "cache")
    for _ in range(2):
        for position in np.random.default_rng(0).permutation(len(there)):
            np.testing.assert_array_equal(there.read(int(position)), local.read(int(position)))
    assert sorted(fetched) == sorted(["index.json", *set(there.index["shard"])])
    assert there._verified.all()
    assert [path.name for path in tmp_path.rglob("*") if path.name.endswith((".part", ".lock"))] == []


def _module(root: Path, url: str, cache: Path, **options: object) -> RoiDataModule:
    settings = {"label": MALIGNANCY, "contract": CONTRACT, "augmentation": AugmentationConfig(crop=(8, 10, 10))}
    store = {"shards_url": url, "cache_dir": cache}
    return RoiDataModule(root, **{**settings, **store, "batch_size": 4, **options})  # type: ignore[arg-type]


@dataclass(frozen=True)
class InternalSource(TinySource):
    """Enough internal patients for a twentieth of the labels."""

    def patient_ids(self) -> list[str]:
        return [name for name in super().patient_ids() if name.startswith("I") or name.endswith(("000", "001"))]


@pytest.mark.slow
def test_a_twentieth_fetches_its_own_shards_only(
    remote: Remote, bucket: Any, tmp_path: Path, fetched: list[str]
) -> None:
    root = tmp_path / "many"
    build_cohort(InternalSource(per_center=110), root, CONTRACT, workers=1)
    label = Label("aggressiveness", "aggressiveness", [0, 1], ["no", "yes"])
    url = f"s3://cohorts/many/volumes/{VolumeSet.find(root).folder.name}"
    module = _module(root, url, tmp_path / "cache", label=label, fraction=0.05)
    chosen = module.plan.patients.query("part == 'train'")["patient_id"]
    index = module.plan.volumes.index
    shards = sorted(set(index.loc[index["patient_id"].isin(chosen), "shard"]))
    for name in shards:  # the store holds nothing else: a read of any other patient would fail
        path = module.plan.volumes.folder / "shards" / name
        bucket.upload_file(str(path), f"{url.removeprefix('s3://cohorts/')}/shards/{name}")
    for _ in range(3):
        seen = {patient for batch in module.train_dataloader() for patient in batch["patient_id"]}
        assert seen == set(chosen)
    assert sorted(fetched) == shards
    assert len(shards) == 7, "of 220"


def test_forked_workers_share_the_cache(remote: Remote, tiny_root: Path, tmp_path: Path) -> None:
    local = _module(tiny_root, remote[1], tmp_path, shards_url=None, cache_dir=None)
    there = _module(*remote, tmp_path / "cache", num_workers=2)
    there.plan.volumes.read(0)  # the parent has a client of its own before it forks
    for one, other in zip(local.train_dataloader(), there.train_dataloader(), strict=True):
        assert one["patient_id"] == other["patient_id"]
        assert bool((one["image"] == other["image"]).all())


def test_a_bounded_cache_keeps_its_bound(remote: Remote, tiny_root: Path, tmp_path: Path, fetched: list[str]) -> None:
    local, cache = VolumeSet.find(tiny_root), tmp_path / "cache"
    size = max(path.stat().st_size for path in (local.folder / "shards").glob("*.bin"))
    there = VolumeSet.find(remote[0], url=remote[1], cache=cache, cache_size=f"{6 * size / 1000}KB")
    for position in range(len(there)):
        np.testing.assert_array_equal(there.read(position), local.read(position))
        assert _bytes(cache) <= 6 * size
    assert len(_shards(cache)) == 6
    assert len(fetched) == 61  # in order, every shard once
    there.read(0)
    assert fetched[-1] == there.index.loc[0, "shard"], "the first shard was dropped and is fetched again"


@pytest.mark.slow
def test_half_a_cache_saves_about_half_of_the_fetches(
    remote: Remote, tiny_root: Path, tmp_path: Path, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_cache, "SETTLED_S", 0.0)
    there = VolumeSet.find(remote[0], url=remote[1], cache=tmp_path / "cache")
    first = there.index.groupby("shard")["position"].min().to_numpy(dtype=int)
    size = sum(path.stat().st_size for path in (VolumeSet.find(tiny_root).folder / "shards").glob("*.bin"))
    there = VolumeSet.find(remote[0], url=remote[1], cache=tmp_path / "cache", cache_size=f"{size / 2000}KB")
    counts = []
    for epoch in range(4):
        fetched.clear()
        for position in np.random.default_rng(epoch).permutation(first):
            there.read(int(position))
        counts.append(len(fetched))
    assert 25 <= np.mean(counts[1:]) <= 38  # of 60; the least recently used policy fetches 51


def _read_all(root: Path, url: str, cache: Path, size: str, seed: int, out: Path) -> None:
    volumes = VolumeSet.find(root, url=url, cache=cache, cache_size=size)
    sums = [(int(p), int(volumes.read(int(p)).sum())) for p in np.random.default_rng(seed).permutation(48)]
    np.save(out, np.array(sorted(sums)))


def test_two_processes_share_a_small_cache(remote: Remote, tiny_root: Path, tmp_path: Path) -> None:
    context, cache = multiprocessing.get_context("fork"), tmp_path / "cache"
    size = max(path.stat().st_size for path in (VolumeSet.find(tiny_root).folder / "shards").glob("*.bin"))
    outs = [tmp_path / f"{seed}.npy" for seed in range(2)]
    bound = f"{4 * size / 1000}KB"
    jobs = [context.Process(target=_read_all, args=(*remote, cache, bound, seed, out)) for seed, out in enumerate(outs)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(120)
        assert job.exitcode == 0
    local = VolumeSet.find(tiny_root)
    expected = np.array([(position, int(local.read(position).sum())) for position in range(48)])
    for out in outs:
        np.testing.assert_array_equal(np.load(out), expected)
    assert _bytes(cache) <= 4 * size


def test_a_damaged_or_outdated_copy_is_fetched_again(remote: Remote, tmp_path: Path, fetched: list[str]) -> None:
    there = VolumeSet.find(remote[0], url=remote[1], cache=tmp_path / "cache")
    shard = there.index.loc[0, "shard"]
    there.read(0)
    (copy,) = _shards(tmp_path / "cache")
    for content in (copy.read_bytes()[:200], copy.read_bytes().replace(b"\0\0", b"\0\1")):
        copy.write_bytes(content)
        VolumeSet.find(remote[0], url=remote[1], cache=tmp_path / "cache").read(0)
    assert fetched.count(shard) == 3


def test_a_shard_damaged_on_the_store_is_named(remote: Remote, bucket: Any, tmp_path: Path) -> None:
    there = VolumeSet.find(remote[0], url=remote[1], cache=tmp_path / "cache")
    shard = there.index.loc[0, "shard"]
    last = int(there.index.loc[there.index["shard"] == shard, "position"].max())
    with _stored(bucket, remote, shard) as stored:
        content = stored.get()["Body"].read()
        stored.put(Body=content[:-40] + bytes([content[-40] ^ 1]) + content[-39:])
        with pytest.raises(DataError, match=rf"Shard {shard} .* is damaged: .*CRC-32.* then upload it"):
            there.read(last)
    there.read(last)


def test_a_missing_shard_is_named(remote: Remote, bucket: Any, tmp_path: Path) -> None:
    there = VolumeSet.find(remote[0], url=remote[1], cache=tmp_path / "cache")
    shard = there.index.loc[0, "shard"]
    with _stored(bucket, remote, shard) as stored:
        stored.delete()
        with pytest.raises(DataError, match=rf"Shard {shard} .* could not be fetched .*404.*check shards_url, or"):
            there.read(0)
        there.read(len(there) - 1)  # the others are still to be had
    there.read(0)


def test_wrong_credentials_are_named(
    remote: Remote, tmp_path: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = VolumeSet.find(remote[0], url=remote[1], cache=tmp_path / "cache")
    there.read(0)
    requests.post(f"{endpoint}/moto-api/reset-auth", data="0", timeout=10)  # from now on keys are checked
    try:
        with pytest.raises(DataError, match=r"Shard .* \(ClientError: .*403.*AWS_ACCESS_KEY_ID") as refused:
            there.read(len(there) - 1)
    finally:
        requests.post(f"{endpoint}/moto-api/reset-auth", data="inf", timeout=10)
    assert "not-a-secret" not in str(refused.value)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(DataError, match=r"NoCredentialsError.*AWS_ACCESS_KEY_ID"):
        VolumeSet.find(remote[0], url=remote[1], cache=tmp_path / "other").read(0)


@pytest.mark.slow
@pytest.mark.parametrize("answers", [False, True])
def test_an_unreachable_store_is_given_up(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    """Nobody listens, or somebody listens and never says anything."""
    monkeypatch.setattr(object_store, "READ_S", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if answers:
            silent.listen(16)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        there, started = VolumeSet.find(remote[0], url=remote[1], cache=tmp_path / "cache"), time.monotonic()
        with pytest.raises(DataError, match=r"did not answer: check the network and the endpoint \(AWS_ENDPOINT_URL"):
            there.read(0)
        assert time.monotonic() - started < 30


def test_a_full_cache_disk_is_named(remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = VolumeSet.find(remote[0], url=remote[1], cache=tmp_path / "cache")
    there._open()
    shard = there.index.loc[0, "shard"]
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # the kernel refuses the shard's second page
        with pytest.raises(DataError, match=rf"{shard} could not be written in .*: File too large"):
            there.read(0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert _shards(tmp_path / "cache") == []
    there.read(0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"url": "s3://cohorts/x"}, "without cache_dir"),
        ({"url": "ftp://cohorts/x", "cache": "c"}, "expected s3://bucket/folder or gs://"),
        ({"url": "s3://key:secret@cohorts/x", "cache": "c"}, "credentials in the environment"),
        ({"url": "s3://cohorts/x", "cache": "c", "cache_size": "many"}, "expected a size such as"),
    ],
)
def test_bad_options_are_refused(tiny_root: Path, tmp_path: Path, options: dict[str, str], sentence: str) -> None:
    settings = {name: tmp_path / value if name == "cache" else value for name, value in options.items()}
    with pytest.raises(DataError, match=sentence) as refused:
        VolumeSet.find(tiny_root, **settings)
    assert "secret" not in str(refused.value)


def test_a_cache_smaller_than_a_shard_is_refused(remote: Remote, tmp_path: Path) -> None:
    there = VolumeSet.find(remote[0], url=remote[1], cache=tmp_path / "cache", cache_size="1KB")
    with pytest.raises(DataError, match="more than the cache_size of 1000"):
        there.read(0)


def test_google_storage_without_its_client_names_the_extra(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("litdata.streaming.downloader._GOOGLE_STORAGE_AVAILABLE", False)
    with pytest.raises(DataError, match=r"renal-vlm-suite\[object-store\]"):
        VolumeSet.find(tiny_root, url="gs://cohorts/x", cache=tmp_path)
