"""Statements as a table, and a reviewer's corrections."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.table_checks import check_table, conform
from datamodules.cohort.tables import TABLES
from datamodules.errors import DataError
from datamodules.files import write_parquet
from datamodules.reports.attribute_table import check_attributes, merge_review, statements_table
from datamodules.reports.reader.statements import Statement
from tests.datamodules.reports.small import SCHEMA

TEXTS = ("A mass in the upper pole.", "No stones.", "Stones.")
KIDNEYS = pd.DataFrame(
    [(patient, f"{patient}-s", side) for patient in ("p1", "p2") for side in ("left", "right")],
    columns=["patient_id", "study_id", "side"],
)


def _reports(sides: tuple[str | None, ...] = (None, None, None)) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "report_id": ["r1", "r2", "r3"],
            "patient_id": ["p1", "p2", "p2"],
            "study_id": ["p1-s", "p2-s", "p2-s"],
            "side": list(sides),
            "text": list(TEXTS),
            "source": "clinical",
        }
    )
    return conform(frame, TABLES["reports"])


def _say(report: int, side: str, name: str, value: str, confidence: float = 1.0, hedged: bool = False) -> Statement:
    return Statement(side, name, value, 0, len(TEXTS[report]), TEXTS[report], confidence, hedged)


FOUND = [
    [_say(0, "left", "pole", "upper", 0.7), _say(0, "left", "lesion_present", "yes")],
    [_say(1, "left", "stones", "no"), _say(1, "right", "stones", "no")],
    [],
]


def _table() -> pd.DataFrame:
    return statements_table(_reports(), FOUND, "rules", SCHEMA)


def _review(folder: Path, *lines: str, header: str = "patient_id,study_id,side,attribute,value,comment") -> Path:
    path = folder / "review.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def test_a_table_holds_every_statement() -> None:
    table = _table()
    assert check_table(table, TABLES["attributes"], "attributes") == []
    assert table["attribute"].tolist() == ["lesion_present", "pole", "stones", "stones"]
    assert set(table["schema_version"]) == {SCHEMA.version}
    stated = table[["report_id", *vars(FOUND[0][0])]].itertuples(index=False, name=None)
    assert set(stated) == {
        (report, *vars(one).values()) for report, found in zip(("r1", "r2"), FOUND, strict=False) for one in found
    }


def test_a_cohort_without_statements_is_an_empty_table() -> None:
    empty = statements_table(_reports(), [[], [], []], "rules", SCHEMA)
    assert empty.empty
    assert check_table(empty, TABLES["attributes"], "attributes") == []


def test_a_report_of_one_side_speaks_of_that_kidney_only() -> None:
    table = statements_table(_reports((None, "right", None)), FOUND, "rules", SCHEMA)
    assert table.loc[table["attribute"] == "stones", "side"].tolist() == ["right"]


def test_of_two_reports_the_certain_and_the_surer_one_counts() -> None:
    for second, expected in ((_say(2, "left", "stones", "yes"), "no"), (_say(2, "left", "stones", "yes", 0.9), "yes")):
        first = _say(1, "left", "stones", "no", 1.0 if expected == "no" else 0.8)
        table = statements_table(_reports(), [[], [first], [second]], "rules", SCHEMA)
        assert table["value"].tolist() == [expected]
    hedged = [[], [_say(1, "left", "stones", "no", 1.0, True)], [_say(2, "left", "stones", "yes", 0.5)]]
    assert statements_table(_reports(), hedged, "rules", SCHEMA)["report_id"].tolist() == ["r3"]


def test_a_class_that_the_schema_does_not_know_is_named() -> None:
    table = _table()
    table.loc[1, "value"] = "apex"
    (finding,) = check_attributes(table, SCHEMA)
    assert finding.sentence() == (
        "attributes.parquet, row 1: pole = apex; expected upper, interpolar, lower; run `make attributes` again."
    )


def test_a_review_replaces_confirms_removes_and_adds(tmp_path: Path) -> None:
    lines = (
        "p1,p1-s,left,pole,lower,read again",
        "p1,p1-s,left,lesion_present,yes,",
        "p2,p2-s,left,stones,not stated,",
        "p1,p1-s,right,stones,no,",
    )
    path = _review(tmp_path, *lines)
    merged = merge_review(_table(), path, SCHEMA, KIDNEYS)
    rows = merged.set_index(["patient_id", "side", "attribute"])
    assert len(merged) == 4
    replaced, confirmed = rows.loc[("p1", "left", "pole")], rows.loc[("p1", "left", "lesion_present")]
    assert (replaced["value"], replaced["extractor"], replaced["confidence"]) == ("lower", "reviewer", 1.0)
    assert pd.isna(replaced["evidence"])
    assert (confirmed["extractor"], confirmed["evidence"]) == ("reviewer", TEXTS[0])
    assert ("p2", "left", "stones") not in rows.index
    assert pd.isna(rows.loc[("p1", "right", "stones"), "report_id"])
    assert rows.loc[("p2", "right", "stones"), "extractor"] == "rules"
    assert check_attributes(merged, SCHEMA) == []
    pd.testing.assert_frame_equal(merge_review(merged, path, SCHEMA, KIDNEYS), merged)


def test_an_empty_review_changes_nothing(tmp_path: Path) -> None:
    pd.testing.assert_frame_equal(merge_review(_table(), _review(tmp_path), SCHEMA, KIDNEYS), _table())


def test_a_review_may_remove_everything(tmp_path: Path) -> None:
    lines = [
        f"{row.patient_id},{row.study_id},{row.side},{row.attribute},not stated,"
        for row in _table().itertuples(index=False)
    ]
    assert merge_review(_table(), _review(tmp_path, *lines), SCHEMA, KIDNEYS).empty


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("p1,p1-s,left,pole,apex,", r"review\.csv, line 3: pole = 'apex'; expected one of upper, .*or not stated"),
        ("p9,p9-s,left,pole,upper,", r"line 3: the cohort has no patient 'p9'"),
        ("p1,p2-s,left,pole,upper,", r"line 3: the cohort has no study 'p2-s' with a left kidney"),
        ("p1,p1-s,middle,pole,upper,", r"line 3: side 'middle'; expected left or right"),
        ("p1,p1-s,left,colour,red,", r"line 3: attribute 'colour'; expected one of lesion_present"),
        ("p1,p1-s,left,stones,no,", r"lines 2 and 3: p1, p1-s, left, stones is corrected twice"),
    ],
)
def test_a_bad_line_of_a_review_is_named(line: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=sentence):
        merge_review(_table(), _review(tmp_path, "p1,p1-s,left,stones,yes,", line), SCHEMA, KIDNEYS)


def test_a_bad_column_of_a_review_is_named(tmp_path: Path) -> None:
    path = _review(tmp_path, header="patient_id,study_id,side,attribute,class")
    with pytest.raises(DataError, match=r"line 1: unknown columns \['class'\], missing columns \['value'\]"):
        merge_review(_table(), path, SCHEMA, KIDNEYS)


def test_attributes_are_part_of_a_cohort_but_not_of_its_hash(tiny_copy: Path) -> None:
    before = Cohort.load(tiny_copy)
    kidney = before["kidneys"].iloc[0]
    row = {name: kidney[name] for name in ("patient_id", "study_id", "side")}
    row |= {"attribute": "stones", "value": "no", "confidence": 1.0, "uncertain": False}
    frame = pd.DataFrame([row | {"extractor": "reviewer", "schema_version": 3}])
    write_parquet(tiny_copy / "attributes.parquet", conform(frame, TABLES["attributes"]))
    after = Cohort.load(tiny_copy)
    assert len(after["attributes"]) == 1
    assert after.table_hash == before.table_hash
    write_parquet(tiny_copy / "attributes.parquet", frame.assign(patient_id="ghost"))
    with pytest.raises(DataError, match=r"patient_id = ghost is not in patients\.parquet"):
        Cohort.load(tiny_copy)
    (tiny_copy / "attributes.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="delete the file; the command that made it writes it anew"):
        Cohort.load(tiny_copy)
