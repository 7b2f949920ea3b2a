"""Every file of a volume set is known by size and checksum; a damaged one names itself and is made again alone."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError, Finding
from datamodules.importers.builder import add_volumes, build_cohort
from datamodules.quality.cohort_checks import check_cohort
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.shards import VolumeSet, shard_name
from datamodules.volumes.volume_files import FILES, RENEW, read_masks
from tests.datamodules.volumes.test_damage import LOADED, CountingSource
from tests.tiny import CONTRACT, TinySource

PATIENT = "I1-003"
OTHER = PreprocessingContract(grid=(6, 10, 10))


def _levels(findings: list[Finding], level: str) -> list[str]:
    return [finding.sentence() for finding in findings if finding.level == level]


def _damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    elif how == "empty":
        content = bytearray()
    elif how == "flipped":
        content[len(content) // 2] ^= 4
    elif how == "another":
        content = bytearray(path.with_name(f"{shard_name('E1-003')}{path.suffix}").read_bytes())
    path.unlink()
    if how != "missing":
        path.write_bytes(bytes(content))


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped", "another", "missing"])
def test_a_damaged_mask_is_named_and_made_again_alone(tiny_copy: Path, tiny_root: Path, how: str) -> None:
    folder = VolumeSet.find(tiny_copy).folder
    name = f"masks/{shard_name(PATIENT)}.npz"
    _damage(folder / name, how)
    with pytest.raises(DataError, match=rf"{name} of tiny/.* patient {PATIENT}.* Delete the file and run"):
        VolumeSet.find(tiny_copy).masks(PATIENT)
    (failure,) = _levels(check_cohort(tiny_copy), "FAIL")
    assert name in failure
    assert PATIENT in failure
    assert "Delete the file and run `make cohort` or `make import` again" in failure
    (folder / name).unlink(missing_ok=True)
    LOADED.clear()
    build_cohort(CountingSource(), tiny_copy, CONTRACT, workers=1)
    assert LOADED == [PATIENT]
    assert (folder / name).read_bytes() == (VolumeSet.find(tiny_root).folder / name).read_bytes()
    assert _levels(check_cohort(tiny_copy, deep=True), "FAIL") == []


def test_every_byte_of_a_shard_is_read_when_asked_for(tiny_copy: Path) -> None:
    """The items' own checksums do not cover what stands between them."""
    volumes = VolumeSet.find(tiny_copy)
    path = volumes.folder / "shards" / f"{shard_name(PATIENT)}.bin"
    content = bytearray(path.read_bytes())
    position = content.index(PATIENT.encode())
    content[position] ^= 1
    path.write_bytes(bytes(content))
    assert _levels(check_cohort(tiny_copy), "FAIL") == []
    (failure,) = _levels(check_cohort(tiny_copy, deep=True), "FAIL")
    assert path.name in failure
    assert f"patient {PATIENT} is damaged" in failure


def test_sizes_are_compared_without_reading(tiny_copy: Path) -> None:
    path = VolumeSet.find(tiny_copy).folder / "masks" / f"{shard_name(PATIENT)}.npz"
    path.write_bytes(path.read_bytes()[:-1])
    (failure,) = _levels(check_cohort(tiny_copy, verify=False), "FAIL")
    assert path.name in failure


def _made_before(root: Path) -> Path:
    """The cohort as it was written before files had checksums."""
    folder = VolumeSet.find(root).folder
    (folder / FILES).unlink()
    for path in (root / ".build" / folder.name).glob("*.json"):
        entry = json.loads(path.read_text())
        del entry["volumes"]["files"]
        path.write_text(json.dumps(entry))
    return folder


def test_an_older_cohort_loads_warns_and_gets_its_checksums(tiny_copy: Path, tiny_root: Path) -> None:
    folder = _made_before(tiny_copy)
    assert VolumeSet.find(tiny_copy).masks(PATIENT).keys() == VolumeSet.find(tiny_root).masks(PATIENT).keys()
    findings = check_cohort(tiny_copy)
    assert _levels(findings, "FAIL") == []
    (warning,) = [text for text in _levels(findings, "WARN") if "no checksums" in text]
    assert RENEW in warning
    LOADED.clear()
    build_cohort(CountingSource(), tiny_copy, CONTRACT, workers=1)
    assert LOADED == []
    whole = pd.read_parquet(VolumeSet.find(tiny_root).folder / FILES).sort_values("file", ignore_index=True)
    pd.testing.assert_frame_equal(pd.read_parquet(folder / FILES).sort_values("file", ignore_index=True), whole)


def test_a_damaged_mask_of_an_older_cohort_gets_no_checksum(tiny_copy: Path) -> None:
    folder = _made_before(tiny_copy)
    name = f"masks/{shard_name(PATIENT)}.npz"
    _damage(folder / name, "truncated")
    with pytest.raises(DataError, match=rf"patient {PATIENT}, is damaged"):
        VolumeSet.find(tiny_copy).masks(PATIENT)
    with pytest.raises(DataError, match=rf"{name} is damaged .*Delete the file"):
        build_cohort(TinySource(), tiny_copy, CONTRACT, workers=1)


def test_a_study_with_a_bar_in_its_name_keeps_its_masks() -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{"a|b|left": np.ones((2, 2, 2), np.uint8)})
    assert list(read_masks(buffer.getvalue(), "masks")) == [("a|b", "left")]


@pytest.mark.slow
def test_a_lost_file_of_an_added_set_is_made_again_alone(tiny_copy: Path) -> None:
    cohort = Cohort.load(tiny_copy)
    added = add_volumes(TinySource(), cohort, OTHER, workers=1).folder
    lost = added / "shards" / f"{shard_name(PATIENT)}.bin"
    content = lost.read_bytes()
    lost.unlink()
    LOADED.clear()
    add_volumes(CountingSource(), cohort, OTHER, workers=1)
    # The first patient is read to see that the source is the cohort's.
    assert [TinySource().patient_ids()[0], PATIENT] == LOADED
    assert lost.read_bytes() == content
    lost.unlink()
    with pytest.raises(DataError, match="made from another source"):
        add_volumes(TinySource(per_center=12, evaluation="folds"), cohort, OTHER, workers=1)
    assert len(list((added / "shards").glob("*.bin"))) == 59


@pytest.mark.parametrize("name", ["cohort.json", "volumes/{}/contract.json"])
@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000 + b"]" * 100_000, b"[]", b"7", b"null", bytes(range(256)), b'{"version": 1' + b"0" * 10_000 + b"}"],
    ids=["deep", "list", "number", "null", "bytes", "huge"],
)
def test_a_description_that_is_something_else_is_one_finding(tiny_copy: Path, name: str, content: bytes) -> None:
    path = tiny_copy / name.format(VolumeSet.find(tiny_copy).folder.name)
    path.write_bytes(content)
    (failure,) = _levels(check_cohort(tiny_copy), "FAIL")
    assert path.name in failure or "contract" in failure


@pytest.mark.parametrize("value", [[], -1, None, {"a": 1}, "x"])
def test_a_contract_of_other_types_is_refused(value: object) -> None:
    content = CONTRACT.to_dict()
    with pytest.raises(DataError, match="Preprocessing contract"):
        PreprocessingContract.from_dict(content | {"grid": value, "extent_mm": value})
