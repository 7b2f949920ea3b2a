"""Names that become folders, identifiers that become keys, and cells that a spreadsheet would run."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from datamodules.cohort.cohort import Cohort
from datamodules.csv_files import as_text, from_text, write_csv
from datamodules.errors import DataError
from datamodules.files import read_json, read_parquet, write_json, write_parquet
from datamodules.importers.builder import build_cohort
from datamodules.importers.delimited import read_text_table
from datamodules.importers.plan import CohortPlan
from datamodules.names import check_name, is_identifier
from experiments.cli import main
from tests.tiny import CONTRACT, TinySource

BAD_NAMES = (
    "",
    ".",
    "..",
    "../../../../x",
    "/x",
    "a/b",
    "a\\b",
    "a b",
    "-a",
    ".a",
    "a\0b",
    "a\n",
    "ä",
    "a" * 65,
    "a|b",
)
BAD_IDENTIFIERS = (
    "", " ", "P1 ", " P1", "P1|S1", "P1/S1", "P1\\S1", "P1\0a", "P1\na", "P1\ta", "P1\x7f", "P1\u200b", "P1\u202e",
    "P\u00adP", "e\u0301", "P1\u2028", "P" * 129,
)  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_no_name_leads_out_of_its_folder(name: str, tiny_copy: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="becomes part of a folder's name"):
        check_name("TAG", name)
    with pytest.raises(DataError, match="The cohort's name"):
        CohortPlan(name=name)
    write_json(tiny_copy / "cohort.json", {**read_json(tiny_copy / "cohort.json"), "name": name})
    with pytest.raises(DataError, match="The cohort's name"):
        Cohort.load(tiny_copy)


@pytest.mark.parametrize("name", ["a", "kits23", "TCGA-KIRC_1.2", "0", "a" * 64])
def test_a_name_is_taken(name: str) -> None:
    assert check_name("TAG", name) == name
    assert CohortPlan(name=name).name == name


@pytest.mark.parametrize("apart", [True, False])
def test_no_tag_writes_outside_of_the_runs(
    apart: bool, tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flag, value = "--tag", "../../../../stolen"
    given = [flag, value] if apart else [f"{flag}={value}"]
    arguments = ["finetune", "--task=malignancy", f"--data={tiny_root}", f"--runs={tmp_path / 'runs'}", *given]
    assert main(arguments) == 2
    assert f"{flag}='{value}' was found" in capsys.readouterr().err
    run = tmp_path / "runs" / "run"
    run.mkdir(parents=True)
    stored = {"task": "malignancy", "data": str(tiny_root), flag.lstrip("-"): value}
    (run / "run.json").write_text(json.dumps({"command": "finetune", "arguments": stored}))
    assert main(["resume", str(run), f"--runs={tmp_path / 'runs'}"]) == 2
    assert f"{flag}='{value}' was found" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*stolen*"))


@pytest.mark.parametrize("identifier", BAD_IDENTIFIERS)
def test_an_identifier_that_would_be_taken_for_another_is_refused(identifier: str, tiny_copy: Path) -> None:
    assert not is_identifier(identifier)
    frame, header = read_parquet(tiny_copy / "kidneys.parquet")
    frame.loc[0, "study_id"] = identifier
    write_parquet(tiny_copy / "kidneys.parquet", frame, header)
    with pytest.raises(DataError, match=r"column study_id"):
        Cohort.load(tiny_copy)


@pytest.mark.parametrize("center", ["=cmd|' /C calc'!A0", "\x1b[2J", "x" * 1000, " A"])
def test_a_centre_that_is_no_name_is_refused(center: str, tiny_copy: Path) -> None:
    for name in ("patients", "centers"):
        frame, header = read_parquet(tiny_copy / f"{name}.parquet")
        write_parquet(tiny_copy / f"{name}.parquet", frame.replace({"center": {"E1": center}}), header)
    with pytest.raises(DataError, match=r"column center") as found:
        Cohort.load(tiny_copy)
    assert "\x1b" not in str(found.value)


@pytest.mark.parametrize("identifier", ["P1", "case_00001", "1.2.840.113619", "患者 7", "Ä1", "P#1", "P1:2", "P" * 128])
def test_an_identifier_may_be_of_any_script(identifier: str) -> None:
    assert is_identifier(identifier)


class _BarredStudies(TinySource):
    """The tiny cohort, in which one patient's studies are called as a key is."""

    def load(self, patient_id: str, contract: object) -> object:  # type: ignore[override]
        record = super().load(patient_id, contract)  # type: ignore[arg-type]
        if patient_id == self.patient_ids()[0]:
            for rows in record.rows.values():
                for row in rows:
                    if "study_id" in row:
                        row["study_id"] += "|left"
        return record


@pytest.mark.slow
def test_an_import_fails_the_patient_and_no_other(tmp_path: Path) -> None:
    source = _BarredStudies()
    cohort, report = build_cohort(source, tmp_path / "cohort", CONTRACT, workers=1)
    assert report.counts["failed"] == 1
    failed = report.rows[report.rows["status"] == "failed"].iloc[0]
    assert failed["patient_id"] == source.patient_ids()[0]
    assert "study_id" in failed["reason"]
    assert failed["patient_id"] not in set(cohort["patients"]["patient_id"])


def test_a_table_with_nul_is_refused(tmp_path: Path) -> None:
    (tmp_path / "patients.csv").write_bytes(b"patient_id,center\nP1\0a,x\nP1\0b,y\n")
    with pytest.raises(DataError, match="holds a NUL character"):
        read_text_table(tmp_path / "patients.csv")


@pytest.mark.parametrize(
    "cell", ["=cmd|'/C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x")', "'=1", "-a"]
)
def test_a_cell_that_would_be_calculated_is_written_as_text(cell: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"comment": [cell, "plain"], "value": [-0.5, 1.0], "text": ["-0.5", "+1e-3"], "n": [-1, 2]})
    write_csv(tmp_path / "x.csv", frame)
    written = (tmp_path / "x.csv").read_bytes().decode()
    assert "\r" not in written
    assert written.splitlines()[-1] == "plain,1.0,+1e-3,2"
    found = pd.read_csv(tmp_path / "x.csv", dtype={"comment": str})
    assert found["comment"][0].startswith("'")
    assert found["comment"].map(from_text).tolist() == [cell.replace("\r", "\n"), "plain"]
    assert found["value"].tolist() == [-0.5, 1.0]


@pytest.mark.parametrize("cell", ["", "-", "+", "-0.5", "-12", "+3.1e-5", "-50%", "a=b", "0.91 (0.8 to 1.0)", "don't"])
def test_other_cells_stay_as_they_are(cell: str) -> None:
    assert as_text(cell) == cell == from_text(cell)


def test_a_table_with_missing_and_nullable_cells_is_written_as_before(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "a": pd.array(["x", pd.NA], dtype="string"),
            "b": pd.array([1, pd.NA], dtype="Int64"),
            "c": pd.Categorical(["u", "v"]),
            "d": [True, False],
            "e": [None, "=1"],
        }
    )
    write_csv(tmp_path / "x.csv", frame)
    assert (tmp_path / "x.csv").read_text() == "a,b,c,d,e\nx,1,u,True,\n,,v,False,'=1\n"
