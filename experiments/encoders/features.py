"""Features of a frozen encoder, computed once for every task, fraction and seed."""

from __future__ import annotations

import copy
import hashlib
import math
import time
import uuid
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from datamodules.base import VolumeDataModule
from datamodules.engine import Lost, Needs, in_this_process, open_pool
from datamodules.errors import DataError
from datamodules.files import replacing
from datamodules.loading.joined_phases import VolumeReader
from experiments.runs.console import progress_bar, say
from experiments.runs.locks import held
from experiments.statistics.means import owner_mean
from lightning_modules.core.distributed import is_main_rank
from lightning_modules.networks.image.encoders import joins_phases

_WHOLE = "features.npz"
_KEYS = ("patient_id", "study_id", "series_id", "side", "crc32")
_BATCH = 32
_VOXELS = 1 << 22
"""Voxels that go through a network at once, so that a large input does not take all memory."""
_KEEP_EVERY_S = 20.0


def weights_hash(network: nn.Module) -> str:
    """Twelve hexadecimal digits that name the weights of a network, its architecture included."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def _cache(folder: Path, network: nn.Module, module: VolumeDataModule) -> FeatureCache:
    """One folder for each network and kind of input; volumes are told apart inside."""
    read = f"{module.wanted.hash} {module.augmentation.config.crop}"
    return FeatureCache(folder / f"{weights_hash(network)}-{hashlib.sha256(read.encode()).hexdigest()[:12]}")


def frozen_features(network: nn.Module, module: VolumeDataModule, positions: Sequence[int], folder: Path) -> np.ndarray:
    """Features of volumes, each cut at its centre as in a test.

    What was computed before is read from `folder`; the rest is computed and added in parts, so that an interrupted
    call goes on where it stopped. An encoder that joins phases reads with a volume those of the other phases of its
    visit, so that all of them have the same features.

    Args:
        network: Encoder; it is put into evaluation mode.
        module: DataModule whose volumes and preprocessing are used.
        positions: Positions of volumes in its volume set, in any order, repeats allowed.
        folder: Folder of cached features.

    Returns:
        float32 [positions, F].

    Raises:
        DataError: if a volume is damaged.
    """
    read = VolumeReader(module.plan.volumes, joins_phases(network))
    cache, keys = _cache(folder, network, module), input_keys(read)
    known, rows = cache.read()
    first = np.array([read.first(int(position)) for position in positions], dtype=np.int64)
    wanted = np.unique(first)
    if not np.isin(keys[wanted], known).all():
        with held(cache.folder / "computing.lock"):  # another process may be at the same features
            known = cache.read()[0]
            missing = wanted[~np.isin(keys[wanted], known)]
            if len(missing):
                _compute(
                    network, module, read, missing, lambda done, feature: cache.add(keys[done], feature), len(wanted)
                )
                cache.merge()
        known, rows = cache.read()
    return rows[np.searchsorted(known, keys[first])]


@dataclass(frozen=True)
class _Extraction:
    """Computes the features of some volumes."""

    network: nn.Module
    augmentation: nn.Module
    read: VolumeReader

    @torch.inference_mode()
    def __call__(self, positions: np.ndarray) -> np.ndarray:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        image = torch.stack([self.read(int(position)) for position in positions])
        network = self.network.to(device)
        feature: torch.Tensor = network(self.augmentation.evaluate(image.to(device)))  # type: ignore[operator]
        return feature.float().cpu().numpy()


def _compute(
    network: nn.Module,
    module: VolumeDataModule,
    read: VolumeReader,
    positions: np.ndarray,
    keep: Callable[..., None],
    count: int,
) -> None:
    """Features of volumes, handed to `keep` with their positions every few seconds, and when it is interrupted."""
    kept = f"; those of {count - len(positions)} are there already" if count > len(positions) else ""
    what = "visits" if joins_phases(network) else "volumes"
    say(f"Computing features of {len(positions)} {what}{kept}; they are kept for every task that uses this encoder.")
    at_once = max(1, min(_BATCH, _VOXELS // math.prod(module.augmentation.config.crop)))
    chunks = np.array_split(positions, -(-len(positions) // at_once))
    workers = max(1, min(torch.cuda.device_count(), len(chunks)))
    network = network.eval()
    if not in_this_process(workers):
        network = copy.deepcopy(network).cpu()  # each process takes it to a GPU of its own; the caller's stays in place
    work = _Extraction(network, module.augmentation, read)
    done: list[np.ndarray] = []
    features: list[np.ndarray] = []
    since = time.monotonic()
    with open_pool(work, workers, Needs(gpu=True)) as pool, progress_bar() as bar:
        bar.disable = not is_main_rank()
        task = bar.add_task("features", total=len(positions))
        try:
            for chunk, found in pool.run(chunks):
                if isinstance(found, Lost):
                    raise DataError(f"Features of {len(chunk)} {what} could not be computed: {found.sentence}.")
                done.append(chunk)
                features.append(found)
                bar.advance(task, len(chunk))
                if time.monotonic() - since > _KEEP_EVERY_S:
                    _kept(keep, done, features)
                    since = time.monotonic()
        finally:
            _kept(keep, done, features)


def _kept(keep: Callable[..., None], positions: list[np.ndarray], features: list[np.ndarray]) -> None:
    """Hand over what was computed since."""
    if positions:
        keep(np.concatenate(positions), np.concatenate(features))
        positions.clear()
        features.clear()


def patient_features(
    network: nn.Module, module: VolumeDataModule, parts: Sequence[str], folder: Path
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Features of the patients of each part, averaged over phases and studies as their predictions are.

    The logits of a linear model on the mean feature are the mean of its logits on each.

    Args:
        network: Encoder.
        module: DataModule of a task.
        parts: train, val, test.
        folder: Folder of cached features.

    Returns:
        For each part rows of the patient table int64 [N], rising, and float64 [N, F]; none where nobody is in it.
    """
    visits = [module.visits(part) for part in parts]
    positions = [[position for found in part.volumes for position in found] for part in visits]
    feature = frozen_features(network, module, [position for part in positions for position in part], folder)
    rows = module.plan.kidneys["row"].to_numpy(dtype=np.int64)
    result, start = [], 0
    for part, taken in zip(visits, positions, strict=True):
        values, start = feature[start : start + len(taken)], start + len(taken)
        owner = np.repeat(rows[np.asarray(part.kidney, dtype=np.int64)], [len(found) for found in part.volumes])
        patient, row = np.unique(owner, return_inverse=True)
        result.append((patient, owner_mean(values, row, len(patient))))
    return result


def input_keys(read: VolumeReader) -> np.ndarray:
    """A number for the identity and the voxels of all that is read with every volume of a set, uint64 [N]."""
    index = read.volumes.index.sort_values("position")
    rows = index[list(_KEYS)].astype(str).agg("|".join, axis=1).tolist()
    together = [
        "||".join(rows[member] for member in read.members(number) if member >= 0) for number in range(len(rows))
    ]
    digests = [hashlib.sha256(row.encode()).digest()[:8] for row in together]
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
