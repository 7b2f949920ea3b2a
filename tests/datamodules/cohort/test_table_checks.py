"""Tables: what is refused, and how it is said."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.splits import SPLIT_HASH
from datamodules.cohort.table_checks import check_table, conform
from datamodules.cohort.tables import TABLES
from datamodules.errors import DataError
from datamodules.files import read_parquet, write_parquet


def _edit(root: Path, table: str, row: int, column: str, value: object) -> None:
    path = root / f"{table}.parquet"
    frame, header = read_parquet(path)
    frame = frame.astype({column: str if isinstance(value, str) else object})
    frame.loc[row, column] = value
    write_parquet(path, frame, {SPLIT_HASH: header[SPLIT_HASH]} if SPLIT_HASH in header else None)


def test_a_cohort_is_read_as_it_was_written(tiny_root: Path) -> None:
    cohort = Cohort.load(tiny_root)
    assert cohort.info.name == "tiny"
    again = Cohort(tiny_root, cohort.info, cohort.tables)
    assert again.split_hash == cohort.split_hash
    for name, frame in cohort.tables.items():
        pd.testing.assert_frame_equal(conform(frame, TABLES[name]), frame)


@pytest.mark.parametrize(
    ("table", "column", "value", "sentence"),
    [
        ("patients", "malignancy", 2, r"patients\.parquet, row 3, column malignancy: value 2; expected one of 0, 1"),
        ("patients", "os_months", -1.0, r"row 3, column os_months: value -1\.0; expected number in \[0, 600\]"),
        ("patients", "sex", "unknown", r"column sex: value 'unknown'; expected one of female, male or missing"),
        ("patients", "age_years", "old", r"column age_years: values of another type"),
        ("patients", "patient_id", None, r"row 3, column patient_id: value missing; expected 1 to 128 visible"),
        ("series", "phase", "late", r"series\.parquet, row 3, column phase: value 'late'"),
        ("kidneys", "renal_r", 4, r"kidneys\.parquet, row 3, column renal_r: value 4"),
        ("splits", "split", "holdout", r"splits\.parquet, row 3, column split: value 'holdout'"),
        ("series", "patient_id", "ghost", r"patient_id = ghost is not in patients\.parquet"),
    ],
)
def test_a_bad_value_is_named_with_file_row_and_column(
    tiny_copy: Path, table: str, column: str, value: object, sentence: str
) -> None:
    _edit(tiny_copy, table, 3, column, value)
    with pytest.raises(DataError, match=sentence):
        Cohort.load(tiny_copy)


def test_unknown_missing_and_repeated_are_named() -> None:
    table = TABLES["centers"]
    frame = pd.DataFrame({"center": ["a", "a"], "hospital": ["x", "y"]})
    findings = [finding.what for finding in check_table(frame, table, "centers.parquet")]
    assert any("unknown column 'hospital'" in what for what in findings)
    assert any("column 'role' is missing" in what for what in findings)
    assert any("('a',) stands in several rows" in what or "a stands in several rows" in what for what in findings)


def test_a_damaged_or_absent_table_is_named(tiny_copy: Path) -> None:
    path = tiny_copy / "patients.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"patients\.parquet is not a readable Parquet file"):
        Cohort.load(tiny_copy)
    path.unlink()
    with pytest.raises(DataError, match=r"patients\.parquet: missing"):
        Cohort.load(tiny_copy)


def test_a_split_edited_by_hand_is_refused(tiny_copy: Path) -> None:
    frame, header = read_parquet(tiny_copy / "splits.parquet")
    swapped = {"train": "val", "val": "train"}
    row = frame.index[frame["split"] == "train"][0]
    frame.loc[row, "split"] = swapped["train"]
    write_parquet(tiny_copy / "splits.parquet", frame, {SPLIT_HASH: header[SPLIT_HASH]})
    with pytest.raises(DataError, match="its header says"):
        Cohort.load(tiny_copy)


def test_a_patient_in_two_splits_is_refused(tiny_copy: Path) -> None:
    frame, header = read_parquet(tiny_copy / "splits.parquet")
    train = frame[frame["split"] == "train"].iloc[[0]].assign(split="test")
    write_parquet(tiny_copy / "splits.parquet", pd.concat([frame, train]), {SPLIT_HASH: header[SPLIT_HASH]})
    patient = str(train["patient_id"].iloc[0])
    with pytest.raises(DataError, match=patient):
        Cohort.load(tiny_copy)


def test_missing_stays_missing(tiny_root: Path) -> None:
    patients = Cohort.load(tiny_root)["patients"]
    unknown = patients["dss_event"].isna()
    assert patients["dss_event"].dtype == pd.BooleanDtype()
    assert 0 < unknown.sum() < len(patients)
    assert (unknown == patients["dss_months"].isna()).all()
    assert patients["isup_grade"].dtype == pd.Int64Dtype()


def test_no_folder_and_no_cohort_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder.*make cohort"):
        Cohort.load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no cohort\.json"):
        Cohort.load(tmp_path)
