"""Shards: what is written is read, and damage is named."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datamodules.errors import DataError
from datamodules.files import write_json
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.roi import Mask, Volume
from datamodules.volumes.shards import VolumeSet, finish_volume_set, volume_folder, write_shard
from tests.tiny import CONTRACT, TinySource


def test_every_volume_is_read_as_it_was_written(tiny_root: Path) -> None:
    volumes = VolumeSet.find(tiny_root)
    source = TinySource()
    written = {
        (patient, volume.series_id, volume.side): volume.image
        for patient in source.patient_ids()
        for volume in source.load(patient, CONTRACT).volumes
    }
    assert len(volumes) == len(written)
    for row in volumes.index.itertuples(index=False):
        image = volumes.read(int(row.position))
        assert image.dtype == np.int16
        np.testing.assert_array_equal(image, written[row.patient_id, row.series_id, row.side])
    masks = volumes.masks("E1-003")
    assert set(masks) == {("E1-003-s1", "left"), ("E1-003-s1", "right")}
    assert masks["E1-003-s1", "left"].sum() == 4 * 6 * 6
    assert volumes.masks("nobody") == {}


def test_one_shard_per_patient(tiny_root: Path) -> None:
    index = VolumeSet.find(tiny_root).index
    assert (index.groupby("patient_id")["shard"].nunique() == 1).all()
    assert index["shard"].nunique() == index["patient_id"].nunique()


def test_shards_hold_half_the_bytes_of_float32(tiny_root: Path) -> None:
    volumes = VolumeSet.find(tiny_root)
    stored = sum(path.stat().st_size for path in (volumes.folder / "shards").glob("*.bin"))
    overhead = 200 * len(volumes)  # keys and offsets
    assert stored <= len(volumes) * np.prod(CONTRACT.grid) * 2 + overhead


def test_a_flipped_bit_is_named(tiny_copy: Path) -> None:
    volumes = VolumeSet.find(tiny_copy)
    row = volumes.index.iloc[7]
    path = volumes.folder / "shards" / row["shard"]
    content = bytearray(path.read_bytes())
    content[-50] ^= 1
    path.write_bytes(bytes(content))
    last = int(volumes.index[volumes.index["shard"] == row["shard"]]["position"].max())
    with pytest.raises(DataError, match=rf"Shard {row['shard']} .* is damaged: .*CRC-32"):
        volumes.read(last)


@pytest.mark.slow
def test_a_truncated_shard_is_named(tiny_copy: Path) -> None:
    volumes = VolumeSet.find(tiny_copy)
    name = volumes.index.iloc[0]["shard"]
    path = volumes.folder / "shards" / name
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=rf"Shard {name}"):
        volumes.read(int(volumes.index[volumes.index["shard"] == name]["position"].max()))


def test_a_missing_shard_is_named(tiny_copy: Path) -> None:
    folder = VolumeSet.find(tiny_copy).folder
    victim = sorted((folder / "shards").glob("*.bin"))[0]
    victim.unlink()
    with pytest.raises(DataError, match=rf"1 shards .* are missing, the first is {victim.name}"):
        VolumeSet.find(tiny_copy)


def test_reader_survives_pickling(tiny_root: Path) -> None:
    volumes = VolumeSet.find(tiny_root)
    first = volumes.read(0)
    copy = pickle.loads(pickle.dumps(volumes))
    np.testing.assert_array_equal(copy.read(0), first)


def test_unfinished_or_other_sets_are_refused(tiny_copy: Path) -> None:
    other = PreprocessingContract(grid=(4, 6, 6))
    with pytest.raises(DataError, match=r"expected one named [0-9a-f]{12} .*grid: \[8, 12, 12\] against \[4, 6, 6\]"):
        VolumeSet.find(tiny_copy, contract=other)
    (VolumeSet.find(tiny_copy).folder / "contract.json").unlink()
    with pytest.raises(DataError, match="with the PROFILE that asks for it"):
        VolumeSet.find(tiny_copy)


def _volume(image: np.ndarray) -> Volume:
    return Volume("study", "series", "left", "arterial", image)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.zeros((8, 12, 11), np.int16), r"expected \(8, 12, 12\)"),
        (np.zeros((8, 12, 12), np.float32), "int16"),
        (np.full((8, 12, 12), 7, np.int16), "every voxel of the arterial volume is 7 HU"),
    ],
)
def test_bad_volumes_are_refused(tmp_path: Path, image: np.ndarray, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        write_shard(tmp_path, "p", [_volume(image)], [], CONTRACT)


def test_a_mask_of_another_shape_is_refused(tmp_path: Path) -> None:
    image = np.arange(8 * 12 * 12, dtype=np.int16).reshape(8, 12, 12)
    with pytest.raises(DataError, match="p, study, left"):
        write_shard(tmp_path, "p", [_volume(image)], [Mask("study", "left", np.zeros((4, 4, 4), np.uint8))], CONTRACT)


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("datamodules.volumes.shards.BinaryWriter.add_item", full)
    image = np.arange(8 * 12 * 12, dtype=np.int16).reshape(8, 12, 12)
    with pytest.raises(DataError, match=r"could not be written: No space left on device"):
        write_shard(tmp_path, "p", [_volume(image)], [], CONTRACT)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_one_set_serves_every_window_scale_and_axes(tiny_copy: Path) -> None:
    folder = VolumeSet.find(tiny_copy).folder
    wide, turned = replace(CONTRACT, window_hu=(-1000.0, 1000.0)), replace(CONTRACT, axes="SPL")
    for contract in (wide, turned, replace(CONTRACT, scaled=(-1.0, 1.0))):
        assert contract.hash != CONTRACT.hash
        assert volume_folder(tiny_copy, contract) == VolumeSet.find(tiny_copy, contract=contract).folder == folder
    clipped = replace(CONTRACT, clip_first=True)
    assert volume_folder(tiny_copy, clipped) != folder
    assert volume_folder(tiny_copy, clipped) != volume_folder(tiny_copy, replace(clipped, window_hu=(0.0, 100.0)))
    # A set that was written for another window, and named by it, serves this one.
    narrow = replace(CONTRACT, window_hu=(0.0, 100.0))
    write_json(folder / "contract.json", narrow.to_dict())
    renamed = folder.rename(folder.parent / f"kidney-{narrow.hash}")
    assert volume_folder(tiny_copy, CONTRACT) == VolumeSet.find(tiny_copy, contract=CONTRACT).folder == renamed


def test_two_contracts_lie_side_by_side(tmp_path: Path) -> None:
    other = PreprocessingContract(grid=(4, 6, 6))
    for contract in (CONTRACT, other):
        image = np.arange(np.prod(contract.grid), dtype=np.int16).reshape(contract.grid)
        folder = volume_folder(tmp_path, contract)
        entry = write_shard(folder, "p", [_volume(image)], [], contract)
        finish_volume_set(folder, contract, [entry])
    assert VolumeSet.find(tmp_path, contract=other).read(0).shape == (4, 6, 6)
    with pytest.raises(DataError, match="with the PROFILE that asks for it"):
        VolumeSet.find(tmp_path)
