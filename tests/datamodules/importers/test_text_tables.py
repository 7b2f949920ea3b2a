"""Tables as hospitals and their spreadsheets write them: read where the meaning is certain, refused with the row."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from datamodules.cohort.columns import Column, Table
from datamodules.errors import DataError
from datamodules.importers.companions import patient_row, read_patients, read_reports
from datamodules.importers.delimited import read_table
from datamodules.importers.study_days import check_dates, parse_date
from datamodules.importers.unmatched import CompanionTable


def written(tmp_path: Path, text: str | bytes, name: str = "patients.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("cell", ["1.0", "1", "true", "TRUE", "Yes", "y", "T", "1,0"])
def test_one_event_has_many_spellings(tmp_path: Path, cell: str) -> None:
    """A column of events with one missing cell is written 1.0 and 0.0 by pandas and R."""
    head, mark = "patient_id;os_event;malignancy;necrosis\n", ";"
    rows = f"a{mark}{cell}{mark}{cell}{mark}{cell}\nb{mark}0{mark}0{mark}no\nc{mark}NA{mark}NA{mark}n/a\n"
    found = read_patients(written(tmp_path, head + rows))
    assert (found["a"]["os_event"], found["a"]["malignancy"], found["a"]["necrosis"]) == (True, 1, True)
    assert (found["b"]["os_event"], found["b"]["malignancy"], found["b"]["necrosis"]) == (False, 0, False)
    assert not {"os_event", "malignancy", "necrosis"} & set(found["c"])


@pytest.mark.parametrize("cell", ["2", "1.5", "0,5", "maybe", "-1"])
def test_what_is_no_event_is_refused_with_row_and_column(tmp_path: Path, cell: str) -> None:
    with pytest.raises(DataError, match=r"patients.csv, row 3, column os_event"):
        read_patients(written(tmp_path, f"patient_id\tos_event\na\t1\nb\t{cell}\n"))


@pytest.mark.parametrize(
    ("cell", "mark", "expected"),
    [
        ("63,5", ";", 63.5),
        ('"63,5"', ",", 63.5),
        ("63Y", ",", 63.0),
        ("063Y", ",", 63.0),
        ("63 years", ",", 63.0),
        ("63 Jahre", ",", 63.0),
    ],
)
def test_ages_and_decimal_commas(tmp_path: Path, cell: str, mark: str, expected: float) -> None:
    found = read_patients(written(tmp_path, f"patient_id{mark}age_years\np{mark}{cell}\n"))
    assert found["p"]["age_years"] == expected


@pytest.mark.parametrize("cell", ["1,234", "1,234,567", "1.234,5", "1_0", "inf", "nan3"])
def test_a_number_that_may_be_two_is_refused(tmp_path: Path, cell: str) -> None:
    with pytest.raises(DataError, match="row 2, column tumor_size_mm"):
        read_patients(written(tmp_path, f'patient_id,tumor_size_mm\np,"{cell}"\n'))


@pytest.mark.parametrize("cell", ["97", "90", ">89", "89+", "90+", "90 or older"])
def test_ages_above_89_are_one_group(tmp_path: Path, cell: str) -> None:
    row = read_patients(written(tmp_path, f"patient_id,age_years\np,{cell}\n"))["p"]
    assert patient_row("p", "c", row)["age_years"] == 90.0
    younger = read_patients(written(tmp_path, "patient_id,age_years\np,89\n"))["p"]
    assert patient_row("p", "c", younger)["age_years"] == 89.0


def test_sexes_sides_stages_and_grades_have_many_spellings(tmp_path: Path) -> None:
    head = "Patient_ID,Sex,Index_Side,stage_pT,isup_grade\n"
    found = read_patients(written(tmp_path, head + "a,F,L,pT3a,G3\nb,männlich,Right,T1b,2.0\nc,W,rechts,x,\n"))
    assert [found[key]["sex"] for key in "abc"] == ["female", "male", "female"]
    assert [found[key]["index_side"] for key in "abc"] == ["left", "right", "right"]
    assert [found[key]["stage_pt"] for key in "abc"] == ["3a", "1b", "X"]
    assert (found["a"]["isup_grade"], found["b"]["isup_grade"]) == (3, 2)


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf", b"\xff\xfe"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_separators_marks_and_line_ends(tmp_path: Path, mark: str, bom: bytes, end: str) -> None:
    text = end.join([f"patient_id{mark}age_years{mark}sex", f"p1{mark}61{mark}m", "", f"p2{mark}62{mark}", ""])
    encoded = text.encode("utf-16-le") if bom == b"\xff\xfe" else text.encode()
    found = read_patients(written(tmp_path, bom + encoded))
    assert {key: row["age_years"] for key, row in found.items()} == {"p1": 61.0, "p2": 62.0}


def test_spreadsheets_put_a_line_before_and_columns_behind(tmp_path: Path) -> None:
    found = read_patients(written(tmp_path, "sep=;\npatient_id;age_years;;\np1;61;;\n"))
    assert found["p1"]["age_years"] == 61.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study_id,text\ne1,Left renal mass, 3 cm.\n", "row 2: 3 cells were found under 2 columns"),
        ("study_id,text\ne1,ok\ne2,a,b,c\ne3,d,e,f\n", "rows 3, 4: 4 cells were found under 2 columns"),
        ("study_id,text\ne1,ok\ne2\n", "row 3: 1 cells were found under 2 columns"),
        ("study_id,text,text\ne1,a,b\n", "columns 2 and 3 are both named 'text'"),
        ("study_id,text,Text\ne1,a,b\n", "two columns are named 'text' but for their case"),
        (",study_id,text\n0,e1,a\n", "unknown column 'column 1 without a name'"),
        ('study_id,text\ne1,"never closed\ne2,ok\n', "row 2: a quote does not close"),
        ('study_id,text\ne0,ok\ne1,"quoted" and not\n', "row 3: a quote does not close or does not end"),
        ("study_id,text\ne1,a\0b\n", "row 2 holds a NUL"),
        (b"study_id,text\ne0,ok\ne1,Nierenl\xe4sion\n", "row 3 is not UTF-8 text"),
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("study_id,text\ne1,  \n", "row 2, column text"),
    ],
)
def test_what_is_no_table_is_refused_with_its_row(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_reports(written(tmp_path, text, "reports.csv"))


def test_quoted_texts_keep_separators_quotes_and_lines(tmp_path: Path) -> None:
    text = 'study_id,text\ne1,"Left mass, 3 cm; ""solid"".\nNo stone."\n' + f'e2,"{"long " * 40000}"\n'
    found = read_reports(written(tmp_path, text, "reports.csv"))
    assert found["e1"][0]["text"] == 'Left mass, 3 cm; "solid".\nNo stone.'
    assert len(found["e2"][0]["text"]) == 199999


def test_the_words_of_choices_have_any_case(tmp_path: Path) -> None:
    phase = Column("phase", "string", "", choices=("non_contrast", "venous"))
    table = Table("t", ("name",), (Column("name", "string", ""), phase))
    text = "name,phase\na,Venous\nb,Non contrast\nc,non-contrast\nd,NA\n"
    found = read_table(written(tmp_path, text), table)
    assert found["phase"].tolist()[:3] == ["venous", "non_contrast", "non_contrast"]
    assert pd.isna(found["phase"].iloc[3])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2019-04-17", "2019-04-17"),
        ("20190417", "2019-04-17"),
        ("2019/4/17", "2019-04-17"),
        ("17.04.2019", "2019-04-17"),
        ("17/04/2019", "2019-04-17"),
        ("04/17/2019", "2019-04-17"),
        ("2019-04-17 00:00:00", "2019-04-17"),
        ("2019-04-17T00:00:00Z", "2019-04-17"),
        ("05/05/2019", "2019-05-05"),
        ("03/04/2019", None),
        ("43572", None),
        ("17.04.19", None),
        ("April 2019", None),
    ],
)
def test_dates_are_read_where_their_order_is_certain(text: str, expected: str | None) -> None:
    found = parse_date(text)
    assert (None if found is None else found.isoformat()) == expected


def test_the_order_of_a_date_may_be_known_from_its_column() -> None:
    frame = pd.DataFrame({"origin_date": ["03/04/2019", "17/04/2019", pd.NA]}, index=[2, 3, 4], dtype="string")
    check_dates(frame, "origin_date", "patients.csv")
    assert frame["origin_date"].tolist()[:2] == ["2019-04-03", "2019-04-17"]
    alone = pd.DataFrame({"origin_date": ["03/04/2019"]}, index=[2], dtype="string")
    with pytest.raises(DataError, match=r"patients.csv, row 2, column origin_date: a date whose day and month"):
        check_dates(alone, "origin_date", "patients.csv")
    mixed = pd.DataFrame({"origin_date": ["13/04/2019", "04/14/2019", "03/04/2019"]}, index=[2, 3, 4], dtype="string")
    with pytest.raises(DataError, match="row 4"):
        check_dates(mixed, "origin_date", "patients.csv")


@pytest.mark.parametrize(("cell", "known"), [("1", "001"), ("1.0", "001"), ("p01", "P01"), ("12 34", "1234")])
def test_an_identifier_that_a_spreadsheet_changed_is_refused(tmp_path: Path, cell: str, known: str) -> None:
    path = written(tmp_path, f"patient_id,sex\n{cell},f\nother,m\n")
    with pytest.raises(DataError, match=r"patients.csv, row 2, column patient_id: no scan has the identifier"):
        CompanionTable("patients", path, "patient_id", {known}.__contains__).unmatched()


def test_rows_without_a_scan_are_counted_and_show_no_identifier(tmp_path: Path) -> None:
    path = written(tmp_path, "patient_id,sex\nDoe,f\np1,m\nRoe,m\n")
    found = CompanionTable("patients", path, "patient_id", {"p1"}.__contains__).unmatched()
    assert found == "2 of 3 rows of patients.csv match no scan (rows 2, 4)."
    assert CompanionTable("patients", path, "patient_id", {"p1", "Doe", "Roe"}.__contains__).unmatched() is None


@pytest.mark.parametrize(
    ("mark", "others", "cell", "expected"),
    [
        ("\t", ("12,5",), "1,234", 1.234),  # the column's other numbers tell what a comma is
        (";", (), "1,234", 1.234),
        (";", ("12.5",), "1.234", 1.234),
        ("\t", ("12.5",), "1.234", 1.234),
    ],
)
def test_the_mark_of_decimals_is_told_by_the_column(
    tmp_path: Path, mark: str, others: tuple[str, ...], cell: str, expected: float
) -> None:
    rows = "".join(f"p{number}{mark}{text}\n" for number, text in enumerate((cell, *others)))
    found = read_patients(written(tmp_path, f"patient_id{mark}tumor_size_mm\n{rows}"))
    assert found["p0"]["tumor_size_mm"] == expected


@pytest.mark.parametrize(
    ("mark", "others", "cell"), [("\t", (), "1,234"), ("\t", ("12",), "1,234"), (";", ("12,5",), "1.234")]
)
def test_a_mark_that_may_stand_before_thousands_is_refused(
    tmp_path: Path, mark: str, others: tuple[str, ...], cell: str
) -> None:
    rows = "".join(f"p{number}{mark}{text}\n" for number, text in enumerate((cell, *others)))
    with pytest.raises(DataError, match="row 2, column tumor_size_mm"):
        read_patients(written(tmp_path, f"patient_id{mark}tumor_size_mm\n{rows}"))


def test_the_decimal_commas_of_one_column_tell_those_of_the_others(tmp_path: Path) -> None:
    head = "patient_id;age_years;tumor_size_mm\n"
    with pytest.raises(DataError, match=r"row 2, column tumor_size_mm: value '1\.234'"):
        read_patients(written(tmp_path, f"{head}p;63,5;1.234\n"))
    head = head.replace(";", "\t")
    assert read_patients(written(tmp_path, f"{head}p\t63,5\t1,234\n"))["p"]["tumor_size_mm"] == 1.234


def test_signs_without_a_width_are_no_part_of_a_cell(tmp_path: Path) -> None:
    found = read_patients(written(tmp_path, "\u200bpatient_id,sex\u200e\n\u200bp1\u200b,\ufeffmale\n"))
    assert found["p1"]["sex"] == "male"


@pytest.mark.parametrize("date", ["0219-04-17", "2919-04-17"])
def test_a_year_of_no_examination_is_no_date(tmp_path: Path, date: str) -> None:
    with pytest.raises(DataError, match="row 2, column origin_date: no date"):
        read_patients(written(tmp_path, f"patient_id,origin_date\np,{date}\n"))


def test_one_report_twice_is_refused_and_an_addendum_is_not(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="rows 2, 3, columns study_id, text: the same key"):
        read_reports(written(tmp_path, "study_id,text\ne1,A mass.\ne1,A mass.\n"))
    assert len(read_reports(written(tmp_path, "study_id,text\ne1,A mass.\ne1,Addendum: no stone.\n"))["e1"]) == 2
