"""Shards on an object store: fetched when first read, kept in a bounded local cache that processes share."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from botocore.config import Config
from filelock import FileLock
from litdata import StreamingDataset
from litdata.streaming.downloader import Downloader, get_downloader
from litdata.streaming.resolver import Dir

from datamodules.errors import DataError
from datamodules.files import copy_file, replacing
from datamodules.volumes.shard_cache import ShardCache

# A store that does not answer is given up after ATTEMPTS x (CONNECT_S or READ_S), where volumes are fetched one by one
# after ATTEMPTS times as long; litdata itself tries 1000 times.
CONNECT_S, READ_S, ATTEMPTS = 10, 60, 3

_PAUSE_S = 0.5
_UNANSWERED = ("Endpoint", "Timeout", "Connection", "Retry", "Incomplete", "Protocol", "ResponseStreaming")
"""Words in the names of errors of clients that no answer, or half of one, came back."""

_SHARD = re.compile(r"[0-9a-f]{16}\.bin")
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
}
_ENDPOINT = {"s3": "AWS_ENDPOINT_URL", "gs": "STORAGE_EMULATOR_HOST"}


def _parse_size(text: str) -> int:
    """Bytes of a size such as `50GB`.

    Raises:
        DataError: if it is not a positive number with KB, MB, GB or TB.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]B)\s*", text.upper())
    size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if size < 1:
        raise DataError(f"cache_size={text!r} was found; expected a size such as 500MB or 50GB.")
    return size


def _check_url(url: str) -> str:
    """The kind of store that a URL names: `s3` or `gs`.

    Raises:
        DataError: if it is another kind, or holds credentials.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in _CREDENTIALS or not rest.strip("/"):
        raise DataError(f"shards_url={url!r} was found; expected s3://bucket/folder or gs://bucket/folder.")
    if "@" in rest.split("/")[0] or "?" in rest:
        raise DataError(
            f"shards_url names a {scheme}:// bucket with credentials or a query; expected the bucket and folder only. "
            f"Give credentials in the environment ({_CREDENTIALS[scheme]})."
        )
    return scheme


def _storage_options(scheme: str) -> dict[str, Any]:
    """What litdata passes to the store's client: bounds on waiting; credentials and endpoint are the environment's."""
    if scheme != "s3":
        return {}
    retries = {"total_max_attempts": ATTEMPTS, "mode": "standard"}
    return {"config": Config(connect_timeout=CONNECT_S, read_timeout=READ_S, retries=retries)}


class ShardStore:
    """The shards of one volume set on an object store, and their copies in a local cache.

    Several processes may share the cache: a shard is fetched once, appears whole or not at all, and is dropped only
    when the cache is full; see `datamodules.volumes.shard_cache`.

    Args:
        url: Folder of the volume set, for example `s3://bucket/cohort/volumes/<set>`.
        folder: The set's folder without its shards, local.
        cache: Local folder for fetched shards.
        cache_size: Bound of that folder, for example `50GB`; None keeps everything.
        in_order: As `ShardCache`.
        volume_bytes: Bytes of a volume's voxels, where volumes are fetched one by one in the place of whole shards.

    Raises:
        DataError: if the URL or the bound is refused, there is no cache, or the store's client is not installed.
    """

    def __init__(
        self,
        url: str,
        folder: Path,
        cache: Path | None,
        cache_size: str | None = None,
        in_order: bool = False,
        volume_bytes: int | None = None,
    ) -> None:
        self.scheme, self.url, self.folder = _check_url(url), url.rstrip("/") + "/shards", folder
        if cache is None:
            raise DataError(
                f"shards_url={url!r} was given without cache_dir; name a local folder for fetched shards, and bound it "
                "with cache_size where its disk is small."
            )
        # Two cohorts may follow one contract; the URL tells their sets apart.
        self.home = Path(cache) / f"{folder.name}-{hashlib.sha256(self.url.encode()).hexdigest()[:8]}"
        limit = None if cache_size is None else _parse_size(cache_size)
        self.volume_bytes, self._offsets = volume_bytes, dict[str, np.ndarray]()
        self.cache = ShardCache(self.home.parent, limit, in_order, volume_bytes)
        self.options = _storage_options(self.scheme)
        self._downloader: Downloader | None = None
        self._process = 0
        self._client()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_downloader": None}

    def open(self) -> StreamingDataset:
        """litdata's view of the set: a volume is read from the shard's copy.

        litdata itself would fetch every volume by ranged requests, keep nothing, and not bound a cache that is read by
        position. Here its request only stands in where another process dropped the copy a moment ago.

        Raises:
            DataError: if the index cannot be had.
        """
        self.cache.adopt()
        local, copy = self.folder / "shards" / "index.json", self.home / "index.json"
        if local.is_file():
            copy_file(local, copy)
        else:
            self._download("index.json", copy)
        return StreamingDataset(Dir(path=str(self.home), url=self.url), storage_options=self.options)

    def fetch(self, shard: str) -> bool:
        """Have a shard in the cache.

        Returns:
            Whether it was fetched now, and so is not verified yet.

        Raises:
            DataError: if it cannot be had, naming it, the cause and what to do.
        """
        path = self.home / shard
        if _touch(path):
            return False
        self.home.mkdir(parents=True, exist_ok=True)
        lock = self.home / f".{shard}.lock"
        with FileLock(lock):
            if _touch(path):
                return False
            self._download(shard, path)
            lock.unlink(missing_ok=True)  # who waits for it finds the shard, whichever lock it gets
        return True

    def volume(self, shard: str, number: int, count: int) -> tuple[bytes, bool]:
        """The voxels of one volume, fetched by a ranged request unless they are in the cache.

        Args:
            shard: Its shard.
            number: Its place among those of the shard.
            count: Volumes of the shard.

        Returns:
            The bytes, and whether they were fetched now.

        Raises:
            DataError: as `fetch`.
        """
        assert self.volume_bytes is not None
        path = self._copy(shard, number)
        if _touch(path):
            with suppress(FileNotFoundError):
                content = path.read_bytes()
                if len(content) == self.volume_bytes:
                    return content, False
        self.cache.adopt()
        # What litdata writes of a volume ends with its voxels; the table at the head of the shard says where that is.
        if shard not in self._offsets:
            self._offsets[shard] = np.frombuffer(self._range(shard, 4, 4 * (count + 1)), dtype=np.uint32)
        end = int(self._offsets[shard][number + 1])
        content = self._range(shard, end - self.volume_bytes, self.volume_bytes)
        with replacing(path, settled=False) as temporary:
            temporary.write_bytes(content)
            self.cache.admit(path, len(content))
        return content, True

    def drop(self, shard: str, number: int) -> bool:
        """Forget the copy of a volume, or of its shard; whether there was one."""
        self._offsets.pop(shard, None)
        path = self.home / shard if self.volume_bytes is None else self._copy(shard, number)
        found = path.is_file()
        path.unlink(missing_ok=True)
        return found

    def _copy(self, shard: str, number: int) -> Path:
        return self.home / f"{shard.removesuffix('.bin')}-{number:04d}.volume"

    def _range(self, shard: str, start: int, length: int) -> bytes:
        """Bytes of a shard; asked for again where the store is busy or the line breaks in the midst of them."""
        for attempt in range(ATTEMPTS):
            try:
                content: bytes = self._client().download_bytes(f"{self.url}/{shard}", start, length, "")
                if len(content) == length:
                    return content
                raise DataError(
                    f"Shard {shard} of {self.folder.name} has no {length} bytes at {start}; upload the set again."
                )
            except DataError:
                raise
            except Exception as error:  # every client has kinds of its own
                if attempt == ATTEMPTS - 1 or not _passing(error):
                    raise self._told(shard, error) from error
                time.sleep(_PAUSE_S * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    def _client(self) -> Downloader:
        """The store's client, one per process: connections do not survive a fork."""
        if self._downloader is None or self._process != os.getpid():
            try:
                self._downloader = get_downloader(self.url, str(self.home), [], self.options)
            except ModuleNotFoundError as error:
                raise DataError(
                    f"Shards on {self.scheme}:// need a client that is not installed; "
                    "run `pip install 'renal-vlm-suite[object-store]'`."
                ) from error
            self._process = os.getpid()
        return self._downloader

    def _download(self, name: str, path: Path) -> None:
        with replacing(path, settled=False) as temporary:
            try:
                with temporary.open("wb") as handle:
                    self._client().download_fileobj(f"{self.url}/{name}", handle)
            except DataError:
                raise
            except Exception as error:  # every client has kinds of its own
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise
                raise self._told(name, error) from error
            if _SHARD.fullmatch(name):
                self.cache.admit(path, temporary.stat().st_size)

    def _told(self, name: str, error: Exception) -> DataError:
        found = f"{type(error).__name__}: {error}".rstrip(".")
        return DataError(
            f"Shard {name} of {self.folder.name} could not be fetched from {self.scheme}:// ({found}). "
            f"{self._advice(error)}"
        )

    def _advice(self, error: Exception) -> str:
        status, kind = _status(error), type(error).__name__
        if status == 404:
            return "The store has no such object: check shards_url, or upload the volume set's folder again."
        if status in (400, 401, 403) or "Credential" in kind:
            return (
                f"The store refused: check the credentials in the environment ({_CREDENTIALS[self.scheme]}) and that "
                "they may read this bucket."
            )
        if _passing(error):
            return f"The store did not answer: check the network and the endpoint ({_ENDPOINT[self.scheme]})."
        return "Run the same command again; the run goes on from its last checkpoint."


def _status(error: Exception) -> int | None:
    """The status of HTTP that an error of a client holds; None where there is none."""
    response = getattr(error, "response", {})
    status = getattr(error, "code", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", status)
    return status if isinstance(status, int) else None


def _passing(error: Exception) -> bool:
    """Whether the store may answer a moment later: it is busy, or the line broke."""
    return _status(error) in (429, 500, 502, 503, 504) or any(word in type(error).__name__ for word in _UNANSWERED)


def _touch(path: Path) -> bool:
    """Note that a shard is read now; whether it is there."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True
