"""Features of a frozen encoder, computed once for every task, fraction and seed."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from datamodules.errors import DataError
from datamodules.files import replacing
from datamodules.streaming import VolumeDataModule
from experiments.console import progress_bar, say
from experiments.statistics.means import owner_mean

_BATCH = 32


def weights_hash(network: nn.Module) -> str:
    """Twelve hexadecimal digits that name the weights of a network, its architecture included."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def _cache_file(folder: Path, network: nn.Module, module: VolumeDataModule) -> Path:
    """One file for each encoder, preprocessing and set of volumes; other volumes at the same places are others."""
    volumes = module.plan.volumes
    told_apart = f"{module.wanted.hash} {module.augmentation.config.crop} {volumes.index.to_csv(index=False)}"
    data = hashlib.sha256(told_apart.encode()).hexdigest()[:12]
    return folder / f"{weights_hash(network)}-{data}.npz"


def frozen_features(network: nn.Module, module: VolumeDataModule, positions: Sequence[int], folder: Path) -> np.ndarray:
    """Features of volumes, each cut at its centre as in a test.

    What was computed before is read from `folder`; the rest is computed and added.

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
    path = _cache_file(folder, network, module)
    known, rows = _read(path)
    wanted = np.unique(np.asarray(positions, dtype=np.int64))
    missing = wanted[~np.isin(wanted, known)]
    if len(missing):
        computed = _compute(network, module, missing)
        known = np.concatenate([known, missing])
        rows = computed if len(known) == len(missing) else np.concatenate([rows, computed])
        order = np.argsort(known)
        known, rows = known[order], rows[order]
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, position=known, feature=rows)
    return rows[np.searchsorted(known, np.asarray(positions, dtype=np.int64))]


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if not path.is_file():
        return np.empty(0, np.int64), np.empty((0, 0), np.float32)
    try:
        with np.load(path, allow_pickle=False) as content:
            return content["position"], content["feature"]
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"Cached features {path.name} are damaged ({error}); delete the file.") from error


@torch.inference_mode()
def _compute(network: nn.Module, module: VolumeDataModule, positions: np.ndarray) -> np.ndarray:
    say(f"Computing features of {len(positions)} volumes, which are kept for every task that uses this encoder.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.eval().to(device)
    volumes, features = module.plan.volumes, []
    with progress_bar() as bar:
        task = bar.add_task("features", total=len(positions))
        for chunk in np.array_split(positions, -(-len(positions) // _BATCH)):
            image = torch.stack([torch.from_numpy(volumes.read(int(position))) for position in chunk])[:, None]
            features.append(network(module.augmentation.evaluate(image.to(device))).float().cpu())
            bar.advance(task, len(chunk))
    return torch.cat(features).numpy()


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
