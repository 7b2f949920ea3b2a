"""`make qc`: the picture and the table are written, and a cohort of many centres stays one picture."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from datamodules.quality.volume_figures import measure
from datamodules.volumes.shards import VolumeSet
from experiments.cohorts import quality_page as quality
from experiments.cohorts.quality_page import DPI, FOOT_IN, HEAD_IN, ROW_IN, WIDTH_IN, qc


def size_of(rows: int) -> tuple[float, float]:
    return WIDTH_IN * DPI, (HEAD_IN + ROW_IN * rows + FOOT_IN) * DPI


def test_a_picture_and_a_table_beside_the_cohort(tiny_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert qc(tiny_copy) == 0
    with Image.open(tiny_copy / "qc.png") as picture:
        assert picture.size == pytest.approx(size_of(5), abs=1)
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 100
    table = pd.read_csv(tiny_copy / "qc.csv")
    assert list(table["phase"][:3]) == ["arterial", "venous", "all"]
    assert set(table["center"]) == set(Cohort.load(tiny_copy)["centers"]["center"])
    assert not list(tiny_copy.glob(".qc*"))
    printed = capsys.readouterr().out
    assert "centres stand out, from all 240 volumes" in " ".join(printed.split())
    assert tiny_copy.parent.as_posix() not in printed


def test_another_folder_and_an_unknown_profile(tiny_root: Path, tmp_path: Path) -> None:
    assert qc(tiny_root, tmp_path / "sheet") == 0
    assert {path.name for path in (tmp_path / "sheet").iterdir()} == {"qc.png", "qc.csv"}
    assert not (tiny_root / "qc.png").exists()
    with pytest.raises(DataError, match="holds the finished volume sets"):
        qc(tiny_root, tmp_path, profile="demo")


def test_many_centres_share_the_last_row(tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort, volumes = Cohort.load(tiny_root), VolumeSet.find(tiny_root)
    found = measure(cohort, volumes, per_group=2)
    monkeypatch.setattr(quality, "ROWS", 3)
    rows = quality._rows(cohort, found)
    assert [len(row.centers) for row in rows] == [1, 1, 3]
    assert rows[-1].title == "3 other centres"
    assert {center for row in rows for center in row.centers} == set(cohort["centers"]["center"])
    quality.draw(cohort, volumes, found, tmp_path / "qc.png")
    with Image.open(tmp_path / "qc.png") as picture:
        assert picture.size == pytest.approx(size_of(3), abs=1)


def test_a_flagged_centre_keeps_its_row(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = Cohort.load(tiny_root)
    found = measure(cohort, VolumeSet.find(tiny_root), per_group=2)
    found.table.loc[:, "flags"] = ""
    found.table.loc[(found.table["center"] == "I2") & (found.table["phase"] == "venous"), "flags"] = "60% padding"
    monkeypatch.setattr(quality, "ROWS", 2)
    first, last = quality._rows(cohort, found)
    assert (first.centers, first.flags) == (("I2",), ("venous: 60% padding",))
    assert "I2" not in last.centers
