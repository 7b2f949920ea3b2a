"""The same phantom volumes in both forms of storage: the reference recipe's float32 files, and shards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.roi import Volume
from datamodules.volumes.shards import VolumeSet, finish_volume_set, write_shard

PER_PATIENT = 4  # one volume per contrast phase


@dataclass(frozen=True)
class Material:
    """Volumes on disk.

    Args:
        folder: Holds `arrays/` and `set/`.
        count: Number of volumes.
        contract: Their preprocessing contract.
    """

    folder: Path
    count: int
    contract: PreprocessingContract

    @property
    def arrays(self) -> Path:
        """One float32 .npy per volume, windowed to [0, 1], as the reference recipe stores them."""
        return self.folder / "arrays"

    @property
    def shards(self) -> Path:
        """The volume set's shards."""
        return self.folder / "set" / "shards"

    def array_path(self, position: int) -> Path:
        """File of a volume."""
        return self.arrays / f"{position:04d}.npy"

    def open(self) -> VolumeSet:
        """The volume set, opened anew."""
        return VolumeSet(self.folder / "set")

    def bytes_per_volume(self) -> dict[str, float]:
        """Size on disk, per volume."""
        sizes = {
            "float32_npy": sum(path.stat().st_size for path in self.arrays.iterdir()),
            "int16_shard": sum(path.stat().st_size for path in self.shards.glob("*.bin")),
        }
        return {name: size / self.count for name, size in sizes.items()}


def make_material(folder: Path, count: int, contract: PreprocessingContract, seed: int = 0) -> Material:
    """Write `count` volumes, a multiple of four, to an empty folder."""
    material = Material(folder, count, contract)
    material.arrays.mkdir(parents=True)
    low, high = contract.window_hu
    entries = []
    for first in range(0, count, PER_PATIENT):
        volumes = []
        for position in range(first, first + PER_PATIENT):
            image = phantom(contract, seed + position)
            np.save(material.array_path(position), ((image.astype(np.float32) - low) / (high - low)).clip(0, 1))
            volumes.append(Volume("s1", f"s1-{position}", "left", "venous", image))
        entries.append(write_shard(folder / "set", f"p{first}", volumes, [], contract))
    finish_volume_set(folder / "set", contract, entries)
    return material


def phantom(contract: PreprocessingContract, seed: int) -> np.ndarray:
    """int16 [D, H, W]: soft tissue and fat in blobs, quantum noise, and air in a corner; a third is black or white."""
    rng = np.random.default_rng(seed)
    tissue = gaussian_filter(rng.standard_normal(contract.grid), [15 / step for step in contract.spacing_mm])
    image = np.where(tissue > 0, 60 + 600 * tissue / tissue.std() / 5, -110) + rng.normal(0, 20, contract.grid)
    image[:, : contract.grid[1] // 6] = -1000
    return image.round().astype(np.int16)
