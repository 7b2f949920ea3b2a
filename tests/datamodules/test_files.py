"""A file is whole or as it was before, whatever happens while it is written."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from datamodules import files
from datamodules.errors import DataError
from datamodules.files import copy_file, read_parquet, replacing, settle_tree, write_json
from datamodules.importers.pseudonyms import KEY_FILE, Pseudonyms
from lightning_modules.export.written import write_files, write_tensors, write_text

WRITERS: dict[str, Callable[[Path], object]] = {
    "json": lambda path: write_json(path, {"new": True}),
    "text of an export": lambda path: write_text(path, "new"),
    "weights of an export": lambda path: write_tensors(path, {"weight": torch.ones(4)}),
    "files of a library": lambda path: write_files(path.parent, lambda folder: (folder / path.name).write_text("new")),
}


def _full(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kept.json"
    path.write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _full)  # where a disk that delays its writing says that it is full
        with pytest.raises((DataError, OSError), match="No space left"):
            WRITERS[name](path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept.json"]
    assert path.read_text() == "old"
    WRITERS[name](path)
    assert path.read_bytes() != b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept.json"]


@pytest.mark.parametrize("name", WRITERS)
def test_the_bytes_are_on_the_disk_before_they_have_the_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (steps.append("fsync"), fsync(handle)))
    monkeypatch.setattr(Path, "replace", lambda self, to: (steps.append(f"to {Path(to).name}"), rename(self, to)))
    WRITERS[name](tmp_path / "kept.json")
    assert steps.index("fsync") < steps.index("to kept.json")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"a\.json could not be written in file"):
        write_json(tmp_path / "file" / "a.json", {})


def test_what_killed_processes_left_a_day_ago_is_removed(tmp_path: Path) -> None:
    old, fresh, folder = tmp_path / ".a.json.x.part", tmp_path / ".b.json.y.part", tmp_path / ".shard.part"
    folder.mkdir()
    (folder / "half").write_text("")
    for path in (old, fresh, tmp_path / "mine.part", tmp_path / ".hidden"):
        path.write_text("half")
    before = time.time() - 2 * 24 * 3600
    for path in (old, folder, tmp_path / "mine.part"):
        os.utime(path, (before, before))
    files._swept.discard(tmp_path)
    write_json(tmp_path / "c.json", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.json.y.part", ".hidden", "c.json", "mine.part"]


def test_a_copy_and_a_tree_are_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "one").write_text("1")
    copy_file(tmp_path / "a" / "b" / "one", tmp_path / "a" / "two")
    assert (tmp_path / "a" / "two").read_text() == "1"
    settled: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: settled.append(os.fstat(handle).st_ino))
    settle_tree(tmp_path / "a")
    assert sorted(settled) == sorted(path.stat().st_ino for path in (tmp_path / "a", *(tmp_path / "a").rglob("*")))


def test_a_mode_is_kept(tmp_path: Path) -> None:
    with replacing(tmp_path / "secret", mode=0o600) as temporary:
        temporary.write_text("x")
        assert temporary.stat().st_mode & 0o077 == 0
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_a_full_disk_leaves_no_empty_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _full)
        with pytest.raises(DataError, match="No space left"):
            Pseudonyms.load(tmp_path / "private", tmp_path / "cohort")
    assert not (tmp_path / "private" / KEY_FILE).exists()
    first = Pseudonyms.load(tmp_path / "private", tmp_path / "cohort")
    assert Pseudonyms.load(tmp_path / "private", tmp_path / "cohort") == first


def test_a_table_that_pandas_wrote_with_an_index_keeps_its_columns(tmp_path: Path) -> None:
    frame = pd.DataFrame({"patient_id": ["b", "a", "c"], "age_years": [61, 47, pd.NA], "score": [0.1, 0.2, 0.3]})
    filtered = frame[frame["patient_id"] != "a"]
    filtered.to_parquet(tmp_path / "filtered.parquet")
    found = read_parquet(tmp_path / "filtered.parquet")[0]
    assert found.columns.tolist() == ["patient_id", "age_years", "score"]
    assert found.index.tolist() == [0, 1]
    assert found["patient_id"].tolist() == ["b", "c"]
    filtered.set_index("patient_id").to_parquet(tmp_path / "named.parquet")
    named = read_parquet(tmp_path / "named.parquet")[0]
    assert sorted(named.columns) == ["age_years", "patient_id", "score"]
    assert named["patient_id"].tolist() == ["b", "c"]


def test_a_column_that_a_table_lacks_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"patient_id": ["a"]}).to_parquet(tmp_path / "table.parquet")
    with pytest.raises(DataError, match=r"table\.parquet is not a readable Parquet file .*study_id"):
        read_parquet(tmp_path / "table.parquet", ["patient_id", "study_id"])
