"""Pseudonyms: stable under one key, unknown without it, and the key where it belongs."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from datamodules.errors import DataError
from datamodules.importers.pseudonyms import KEY_FILE, Pseudonyms


def test_the_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    first = Pseudonyms.load(tmp_path / "private", tmp_path / "cohort")
    again = Pseudonyms.load(tmp_path / "private", tmp_path / "cohort")
    assert first == again
    assert (tmp_path / "private" / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o700
    assert not (tmp_path / "cohort").exists()


def test_pseudonyms_depend_on_the_key_and_on_what_is_named(tmp_path: Path) -> None:
    one = Pseudonyms.load(tmp_path / "a", tmp_path / "cohort")
    two = Pseudonyms.load(tmp_path / "b", tmp_path / "cohort")
    names = {one.patient("x"), one.study("x"), one.series("x"), one.patient("y"), two.patient("x")}
    assert len(names) == 5
    assert len({name.split("-")[1] for name in names}) == 5


@pytest.mark.parametrize("place", ["cohort", "cohort/private", "other/../cohort/x"])
def test_a_key_inside_the_cohort_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(DataError, match="lies inside the cohort"):
        Pseudonyms.load(tmp_path / place, tmp_path / "cohort")


def test_a_link_into_the_cohort_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cohort").mkdir()
    (tmp_path / "outside").symlink_to(tmp_path / "cohort")
    with pytest.raises(DataError, match="lies inside the cohort"):
        Pseudonyms.load(tmp_path / "outside", tmp_path / "cohort")


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    Pseudonyms.load(tmp_path / "private", tmp_path / "cohort")
    (tmp_path / "private" / KEY_FILE).chmod(0o644)
    with pytest.raises(DataError, match=r"mode 644.*chmod 600"):
        Pseudonyms.load(tmp_path / "private", tmp_path / "cohort")


@pytest.mark.parametrize("content", ["", "abc", "not hexadecimal"])
@pytest.mark.parametrize("trace", ["cohort/cohort.json", "cohort/.build/kidney-0/a.json", "private/index-7/b.jsonl"])
def test_a_damaged_key_that_named_somebody_is_refused_and_not_replaced(
    tmp_path: Path, content: str, trace: str
) -> None:
    Pseudonyms.load(tmp_path / "private", tmp_path / "cohort")
    (tmp_path / trace).parent.mkdir(parents=True)
    (tmp_path / trace).write_text("{}")
    (tmp_path / "private" / KEY_FILE).write_text(content)
    with pytest.raises(DataError, match="holds no key"):
        Pseudonyms.load(tmp_path / "private", tmp_path / "cohort")
    assert (tmp_path / "private" / KEY_FILE).read_text() == content


def test_an_empty_key_that_named_nobody_is_made(tmp_path: Path) -> None:
    """As a full disk left it in a first import."""
    (tmp_path / "private").mkdir(mode=0o700)
    (tmp_path / "private" / KEY_FILE).touch(mode=0o600)
    made = Pseudonyms.load(tmp_path / "private", tmp_path / "cohort")
    assert made == Pseudonyms.load(tmp_path / "private", tmp_path / "cohort")
    assert len(made.key) == 32
    assert (tmp_path / "private" / KEY_FILE).stat().st_mode & 0o777 == 0o600


def test_a_full_disk_leaves_no_key_and_the_next_import_makes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=rf"{KEY_FILE} could not be written .*No space left"):
        Pseudonyms.load(tmp_path / "private", tmp_path / "cohort")
    monkeypatch.undo()
    assert not (tmp_path / "private" / KEY_FILE).exists()
    assert len(Pseudonyms.load(tmp_path / "private", tmp_path / "cohort").key) == 32
