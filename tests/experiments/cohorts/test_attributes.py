"""`make attributes`: what is written, what is kept, what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from datamodules.files import read_json, read_parquet, write_parquet
from datamodules.phantoms.phantom_source import DemoSource
from datamodules.reports.attribute_table import check_attributes
from datamodules.reports.llm.extractor import LlmExtractor
from datamodules.reports.reader.statements import Statement
from datamodules.reports.schema import AttributeSchema
from experiments.cohorts import attributes as command
from experiments.runs.console import configure_output
from tests.datamodules.reports.small import SCHEMA, random_model

WORDS = {"stones": {"no": "no stones", "yes": "stone"}, "pole": {"upper": "upper pole", "lower": "lower pole"}}


class WordExtractor:
    """Finds a few words; a stand-in that is right now and then."""

    calls = 0

    def __init__(self, name: str = "words", version: int = 1, shift: int = 0) -> None:
        self.name, self.version, self.shift = name, version, shift

    @property
    def fingerprint(self) -> str:
        return f"{self.name}-{self.version}"

    def extract(self, reports: Sequence[str]) -> list[list[Statement]]:
        type(self).calls += len(reports)
        return [list(self._found(report)) for report in reports]

    def _found(self, report: str) -> Sequence[Statement]:
        found = []
        for attribute, classes in WORDS.items():
            for value, words in classes.items():
                start = report.lower().find(words)
                if start >= 0 and (self.name == "words" or value != "upper"):
                    end = start + len(words)
                    found.append(Statement("left", attribute, value, start + self.shift, end, report[start:end]))
                    break
        return found


@pytest.fixture(scope="module")
def phantom_tables() -> dict[str, pd.DataFrame]:
    return DemoSource(48, 42).tables()


@pytest.fixture
def root(tmp_path: Path, phantom_tables: dict[str, pd.DataFrame]) -> Path:
    """A phantom cohort without volumes."""
    folder = tmp_path / "phantoms"
    tables = {name: frame for name, frame in phantom_tables.items() if name != "truth"}
    Cohort(folder, DemoSource(48, 42).info, tables).write()
    write_parquet(folder / "truth.parquet", phantom_tables["truth"])
    return folder


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    WordExtractor.calls = 0
    configure_output()
    monkeypatch.setattr(command, "load_schema", lambda: SCHEMA)
    makers = {
        "words": lambda schema, model, data: WordExtractor(),
        "other": lambda schema, model, data: WordExtractor("other"),
        "random": lambda schema, model, data: LlmExtractor(random_model(), schema, data / "attributes" / ".answers"),
    }
    monkeypatch.setattr(command, "EXTRACTORS", makers)


def test_a_cohort_gets_its_attributes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = Cohort.load(root)
    assert command.attributes(root, "words", "other") == 0
    after = Cohort.load(root)
    assert check_attributes(after["attributes"], SCHEMA) == []
    assert after.table_hash == before.table_hash
    folder = root / "attributes"
    names = {
        "words.parquet", "other.parquet", "agreement.csv", "disagreements.csv", "accuracy.csv", "attributes.png"
    }  # fmt: skip
    assert {path.name for path in folder.iterdir()} == {*names, "summary.json"}
    summary = read_json(folder / "summary.json")
    assert (summary["reports"], summary["schema_version"], summary["schema_hash"]) == (48, 3, SCHEMA.hash)
    assert summary["statements"] == len(after["attributes"]) > 0
    different = pd.read_csv(folder / "disagreements.csv")
    assert set(different["attribute"]) == {"pole"}
    groups = set(pd.read_csv(folder / "accuracy.csv")["group"])
    assert {"(all)", "role external", "phrases development", "phrases heldout"} <= groups
    shown = capsys.readouterr().out
    assert "48 of 48 reports" in shown
    assert "Phantom results" in shown
    assert "Kappa is with other" in shown


def test_a_second_call_has_nothing_to_do(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.attributes(root, "words")
    calls, written = WordExtractor.calls, (root / "attributes.parquet").stat().st_mtime_ns
    assert command.attributes(root, "words") == 0
    assert "are there already" in capsys.readouterr().out
    assert (root / "attributes.parquet").stat().st_mtime_ns == written
    command.attributes(root, "words", "other")
    assert WordExtractor.calls == 2 * calls  # the first extractor's table is used again


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["attributes.parquet", "attributes/attributes.png", "attributes/words.parquet"])
def test_a_lost_file_is_written_again(root: Path, lost: str) -> None:
    command.attributes(root, "words")
    (root / lost).unlink()
    command.attributes(root, "words")
    assert (root / lost).is_file()


@pytest.mark.slow
def test_another_report_or_extractor_is_read(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.attributes(root, "words")
    first = read_parquet(root / "attributes.parquet")[1]["extractor"]
    command.attributes(root, "other")
    assert (first, read_parquet(root / "attributes.parquet")[1]["extractor"]) == ("words", "other")
    assert "attributes.parquet was by words and is now by other; words.parquet stays" in capsys.readouterr().out
    calls = WordExtractor.calls
    reports, _ = read_parquet(root / "reports.parquet")
    reports.loc[0, "text"] = "Nothing."
    write_parquet(root / "reports.parquet", reports)
    command.attributes(root, "other")
    assert WordExtractor.calls == calls + 48


def test_a_language_model_is_one_entry(root: Path) -> None:
    command.attributes(root, "words", "random", limit=4)
    assert not (root / "attributes.parquet").exists()
    summary = read_json(root / "attributes" / "limit-4" / "summary.json")
    assert (summary["reports"], summary["kidneys"]) == (4, 8)
    assert len(list((root / "attributes" / ".answers").rglob("*.json"))) == 4


@pytest.mark.slow
def test_a_review_is_merged_on_top(root: Path, tmp_path: Path) -> None:
    command.attributes(root, "words")
    before = Cohort.load(root)["attributes"]
    row = before[before["attribute"] == "pole"].iloc[0]
    value = "lower" if row["value"] == "upper" else "upper"
    review = tmp_path / "review.csv"
    keys = ",".join(row[["patient_id", "study_id", "side", "attribute"]])
    review.write_text(f"patient_id,study_id,side,attribute,value\n{keys},{value}\n")
    command.attributes(root, "words", review=review)
    after = Cohort.load(root)["attributes"]
    assert after.loc[after["extractor"] == "reviewer", "value"].tolist() == [value]
    assert read_json(root / "attributes" / "summary.json")["reviewed"] == 1
    command.attributes(root, "words")  # without the review it is as it was
    pd.testing.assert_frame_equal(Cohort.load(root)["attributes"], before)


def test_reports_of_real_patients_have_no_accuracy(root: Path) -> None:
    command.attributes(root, "words")
    (root / "truth.parquet").unlink()
    command.attributes(root, "words")
    assert not (root / "attributes" / "accuracy.csv").exists()


def test_an_extractor_that_does_not_quote_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(command.EXTRACTORS, "words", lambda schema, model, data: WordExtractor(shift=1))
    with pytest.raises(DataError, match=r"Report .*: Attribute .* an extractor may only quote"):
        command.attributes(root, "words")
    assert not (root / "attributes.parquet").exists()


def test_bad_requests_are_refused(root: Path, tiny_root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no reports, out of which attributes are read"):
        command.attributes(tiny_root, "words")
    with pytest.raises(DataError, match="EXTRACTOR=word is not known"):
        command.attributes(root, "word")
    with pytest.raises(DataError, match="are both words"):
        command.attributes(root, "words", "words")
    with pytest.raises(DataError, match=r"REVIEW=absent\.csv does not exist"):
        command.attributes(root, "words", review=tmp_path / "absent.csv")
    with pytest.raises(DataError, match="LIMIT=-1"):
        command.attributes(root, "words", limit=-1)


def test_the_summary_is_plain_data(root: Path) -> None:
    command.attributes(root, "words", limit=5)
    text = (root / "attributes" / "limit-5" / "summary.json").read_text()
    assert str(root) not in text
    assert isinstance(json.loads(text)["stated"], dict)
    assert isinstance(SCHEMA, AttributeSchema)
