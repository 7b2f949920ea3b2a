"""Features on disk: added in parts while they are computed, so that an interruption costs seconds."""

from __future__ import annotations

import hashlib
import uuid
import zipfile
from pathlib import Path

import numpy as np

from datamodules.errors import DataError
from datamodules.files import replacing
from datamodules.volumes.shards import VolumeSet

_WHOLE = "features.npz"
_KEYS = ("patient_id", "study_id", "series_id", "side", "crc32")


def volume_keys(volumes: VolumeSet) -> np.ndarray:
    """A number for the identity and the voxels of every volume of a set, uint64 [N]."""
    rows = volumes.index[list(_KEYS)].astype(str).agg("|".join, axis=1)
    digests = [hashlib.sha256(row.encode()).digest()[:8] for row in rows]
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


class FeatureCache:
    """The features of one network for one kind of input, by volume.

    Several processes may read and add at once: parts are only ever added, and taken away when the file that holds them
    all is in place.

    Args:
        folder: Folder of this network and this input.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """What is there: keys uint64 [N], rising and each once, and features float32 [N, F].

        Raises:
            DataError: if a file is damaged.
        """
        return self._merged(self._parts())

    def add(self, keys: np.ndarray, features: np.ndarray) -> None:
        """Keep the features of some volumes.

        Args:
            keys: uint64 [N].
            features: float32 [N, F].
        """
        self._write(self.folder / f"part-{uuid.uuid4().hex[:12]}.npz", keys, features)

    def merge(self) -> None:
        """Make one file of all parts."""
        parts = self._parts()
        if parts:
            self._write(self.folder / _WHOLE, *self._merged(parts))
        for path in parts:
            path.unlink(missing_ok=True)

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.npz"))

    def _merged(self, parts: list[Path]) -> tuple[np.ndarray, np.ndarray]:
        # The whole file is read last: a part that another process takes away meanwhile is in it by then.
        read = [_read(path) for path in (*parts, self.folder / _WHOLE)]
        found = [content for content in read if content is not None]
        if not found:
            return np.empty(0, np.uint64), np.empty((0, 0), np.float32)
        keys, first = np.unique(np.concatenate([content[0] for content in found]), return_index=True)
        return keys, np.concatenate([content[1] for content in found])[first]

    def _write(self, path: Path, keys: np.ndarray, features: np.ndarray) -> None:
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, key=keys, feature=features)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        with np.load(path, allow_pickle=False) as content:
            return content["key"], content["feature"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"Cached features {path.parent.name}/{path.name} are damaged ({error}); delete the file."
        ) from error
