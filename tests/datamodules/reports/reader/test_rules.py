"""The rules: hand-written sentences, invariants, and phantoms' reports with phrases that the rules were not made on."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from sklearn.metrics import f1_score

from datamodules.phantoms.centers import center_of
from datamodules.phantoms.phantom_source import DemoSource
from datamodules.reports.attribute_table import NOT_STATED
from datamodules.reports.reader.rules import RuleExtractor
from datamodules.reports.reader.statements import Statement, check_statement
from datamodules.reports.schema import SCHEMA_FILE, load_schema
from tests.datamodules.reports.reader.sentences import HEDGED, OF_LESION, REPORTS

OPENING = "There is a mass in the left kidney. "
RULES = RuleExtractor()


def _found(report: str, side: str, attribute: str) -> Statement | None:
    statements = RULES.extract([report])[0]
    return next((entry for entry in statements if (entry.side, entry.attribute) == (side, attribute)), None)


@pytest.mark.parametrize(("sentence", "attribute", "value"), OF_LESION)
def test_a_sentence_on_a_lesion(sentence: str, attribute: str, value: str | None) -> None:
    found = _found(OPENING + sentence, "left", attribute)
    assert (found.value if found else None) == value


@pytest.mark.parametrize(("report", "side", "attribute", "value"), REPORTS)
def test_a_report(report: str, side: str, attribute: str, value: str | None) -> None:
    found = _found(report, side, attribute)
    assert (found.value if found else None) == value


@pytest.mark.parametrize(("sentence", "attribute", "value"), HEDGED)
def test_a_hedged_sentence(sentence: str, attribute: str, value: str) -> None:
    found = _found(OPENING + sentence, "left", attribute)
    assert found is not None
    assert (found.value, found.uncertain) == (value, True)
    assert found.confidence < 1.0


@pytest.mark.parametrize(
    ("report", "implied", "value"),
    [
        ("Bosniak III cyst of the left kidney.", "composition", "cystic"),
        ("Bosniak III cyst of the left kidney.", "enhancement_pattern", "septal"),
        ("Bosniak IV cyst of the left kidney.", "enhancement_pattern", "nodular"),
        ("A left renal mass without enhancement.", "enhancement_pattern", "none"),
        ("A left renal mass. No enhancing component is seen.", "enhancement_degree", "none"),
        ("The 3 cm lesion of the left kidney is solid.", "lesion_present", "yes"),
    ],
)
def test_what_a_value_implies(report: str, implied: str, value: str) -> None:
    found = _found(report, "left", implied)
    assert found is not None
    assert found.value == value


def test_a_contradiction_goes_with_the_findings_and_lowers_the_confidence() -> None:
    agreed = _found("Findings: Left renal mass, solid.\nImpression: Solid left renal mass.", "left", "composition")
    against = _found("Findings: Left renal mass, solid.\nImpression: Cystic left renal mass.", "left", "composition")
    assert agreed is not None
    assert against is not None
    assert against.value == "solid"
    assert against.confidence < agreed.confidence == 1.0


def test_an_impression_before_the_findings_does_not_win() -> None:
    found = _found("Impression: Cystic left renal mass.\nFindings: Left renal mass, solid.", "left", "composition")
    assert found is not None
    assert found.value == "solid"


def test_lesion_attributes_need_a_lesion() -> None:
    assert _found("The left kidney is normal. No necrosis. Perirenal fat is clear.", "left", "necrosis") is None


@pytest.fixture(scope="module")
def phantoms() -> dict[str, pd.DataFrame]:
    return DemoSource(120, 2024).tables()


@pytest.fixture(scope="module")
def reports(phantoms: dict[str, pd.DataFrame]) -> list[str]:
    return phantoms["reports"]["text"].tolist()


@pytest.mark.slow
def test_evidence_is_quoted_and_statements_are_single(reports: list[str]) -> None:
    for report, statements in zip(reports, RULES.extract(reports), strict=True):
        keys = [(entry.side, entry.attribute) for entry in statements]
        assert len(keys) == len(set(keys))
        for entry in statements:
            check_statement(entry, report, RULES.schema.classes)
            assert 0.0 < entry.confidence <= 1.0


def _mirrored(report: str) -> str:
    pairs = {"left": "right", "Left": "Right", "LEFT": "RIGHT", "L": "R", "Lt": "Rt", "LT": "RT", "LK": "RK"}
    swap = pairs | {right: left for left, right in pairs.items()}
    return re.sub(rf"\b(?:{'|'.join(swap)})\b", lambda match: swap[match[0]], report)


@pytest.mark.slow
def test_a_mirrored_report_gives_mirrored_statements(reports: list[str]) -> None:
    for report in reports:
        found, mirrored = RULES.extract([report, _mirrored(report)])
        opposite = {"left": "right", "right": "left"}
        one = {(entry.side, entry.attribute, entry.value, entry.uncertain) for entry in found}
        other = {(opposite[entry.side], entry.attribute, entry.value, entry.uncertain) for entry in mirrored}
        assert one == other


def test_the_order_of_sections_changes_nothing(phantoms: dict[str, pd.DataFrame]) -> None:
    sided = [text for text in phantoms["reports"]["text"] if re.search(r"^(?:right|left) kidney:", text, re.I | re.M)]
    assert len(sided) > 10
    for report in sided:
        lines = report.split("\n")
        kidneys = [place for place, line in enumerate(lines) if re.match(r"(?:right|left) kidney:", line, re.I)]
        if len(kidneys) < 2:
            continue
        first, second = kidneys[:2]
        lines[first], lines[second] = lines[second], lines[first]
        before, after = RULES.extract([report, "\n".join(lines)])
        as_set = [{(entry.side, entry.attribute, entry.value) for entry in found} for found in (before, after)]
        assert as_set[0] == as_set[1]


def test_an_answer_depends_on_its_report_alone(reports: list[str]) -> None:
    together = RULES.extract(reports[:20])
    assert together == [RuleExtractor().extract([report])[0] for report in reports[:20]]


@pytest.mark.parametrize("report", ["", "  \n ", "The lungs are clear. The liver shows a 2 cm cyst.", "Findings:"])
def test_nothing_is_found_where_no_kidney_is_described(report: str) -> None:
    assert RULES.extract([report]) == [[]]


def test_the_fingerprint_changes_with_the_schema(tmp_path: Path) -> None:
    content = yaml.safe_load(SCHEMA_FILE.read_text(encoding="utf-8"))
    content["version"] += 1
    path = tmp_path / "schema.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert RuleExtractor(load_schema(path)).fingerprint != RULES.fingerprint == RuleExtractor().fingerprint


def test_a_new_attribute_is_an_entry_of_the_file(tmp_path: Path) -> None:
    content = yaml.safe_load(SCHEMA_FILE.read_text(encoding="utf-8"))
    content["attributes"].append(
        {
            "name": "gas",
            "level": "kidney",
            "question": "Is there gas in this kidney?",
            "definition": "Gas in parenchyma or collecting system.",
            "not_stated": "Gas is not mentioned.",
            "classes": [
                {"name": "yes", "definition": "Gas is seen.", "negated": "no", "patterns": ["gas"]},
                {"name": "no", "definition": "No gas."},
            ],
        }
    )
    path = tmp_path / "schema.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    found = RuleExtractor(load_schema(path)).extract(["Gas in the left kidney. No gas in the right kidney."])[0]
    assert {(entry.side, entry.value) for entry in found if entry.attribute == "gas"} == {
        ("left", "yes"),
        ("right", "no"),
    }


# Bank of phrases: least macro F1, least share of right stated-or-not decisions. The rules were written with the
# development phrases in sight and the held-out ones out of sight; the aim for the latter was .95 and .97. These are
# floors against falling back, .01 or more below what is reached here. `make attributes`, which leaves the class "not
# stated" out of the mean, gives .97 on the whole cohort.
FLOORS = {"development": (0.98, 0.97), "heldout": (0.955, 0.965)}


@pytest.mark.parametrize("bank", FLOORS)
def test_phantoms(bank: str, phantoms: dict[str, pd.DataFrame]) -> None:
    truth = phantoms["truth"]
    truth = truth[[center_of(patient).bank == bank for patient in truth["patient_id"]]]
    texts = phantoms["reports"].set_index("study_id")["text"]
    studies = list(dict.fromkeys(truth["study_id"]))
    read = dict(zip(studies, RULES.extract([texts[study] for study in studies]), strict=True))
    scores, decisions = [], []
    for attribute in RULES.schema.attributes:
        pairs = [
            (_true(row, attribute.name), _read(read[row["study_id"]], row["side"], attribute.name))
            for row in truth.to_dict("records")
        ]
        true, found = ([pair[place] for pair in pairs] for place in (0, 1))
        scores.append(f1_score(true, found, labels=sorted(set(true)), average="macro", zero_division=0))
        decisions += [(one == NOT_STATED) == (two == NOT_STATED) for one, two in pairs]
    least_f1, least_decisions = FLOORS[bank]
    assert sum(scores) / len(scores) >= least_f1
    assert sum(decisions) / len(decisions) >= least_decisions


def _true(row: dict[str, object], name: str) -> str:
    if name not in str(row["stated"]).split(";"):
        return NOT_STATED
    if name == "size_class" and not pd.isna(row["stated_size_mm"]):  # type: ignore[call-overload]
        measure = RULES.schema[name].measure
        assert measure is not None
        return measure.class_of(float(str(row["stated_size_mm"])))
    return str(row[name])


def _read(statements: list[Statement], side: str, name: str) -> str:
    return next((entry.value for entry in statements if (entry.side, entry.attribute) == (side, name)), NOT_STATED)


# Sample of real reports: least precision, least recall over all attributes. The samples were fresh once, see
# REAL_REPORTS.md; what is held here is that the rules do not fall back on them.
REAL_FLOORS = {
    1: (0.97, 0.97),
    2: (0.95, 0.96),
    3: (0.94, 0.97),
    4: (0.87, 0.95),
    5: (0.92, 0.94),
    6: (0.98, 0.98),
    7: (0.91, 0.93),
}


@pytest.mark.real_data
@pytest.mark.parametrize("sample", REAL_FLOORS)
def test_real_reports(sample: int, real_data: Path) -> None:
    texts = pd.read_csv(real_data / "reports" / "ct_rate_reports.csv")["report_text"]
    marks = pd.read_csv(Path(__file__).with_name("real_sentences.csv"))
    marks = marks[marks["sample"] == sample]
    stated = marks[marks["value"] != NOT_STATED]
    true = {
        (row["row"], row["side"], row["attribute"]): row["value"]
        for row in stated.drop_duplicates(["row", "side", "attribute"]).to_dict("records")
    }
    rows = sorted(set(marks["row"]))
    found = {
        (row, entry.side, entry.attribute): entry.value
        for row, statements in zip(rows, RULES.extract([texts[row] for row in rows]), strict=True)
        for entry in statements
    }
    right = sum(found.get(key) == value for key, value in true.items())
    least_precision, least_recall = REAL_FLOORS[sample]
    assert right / len(found) >= least_precision
    assert right / len(true) >= least_recall


@pytest.mark.real_data
def test_the_marks_are_of_these_sentences(real_data: Path) -> None:
    texts = pd.read_csv(real_data / "reports" / "ct_rate_reports.csv")["report_text"]
    marks = pd.read_csv(Path(__file__).with_name("real_sentences.csv"))
    for row in marks.to_dict("records"):
        sentence = texts[row["row"]][row["start"] : row["end"]]
        assert hashlib.sha256(sentence.encode()).hexdigest()[:12] == row["sentence"]
    assert marks.loc[marks["sample"] == 1, "sentence"].nunique() >= 100
    classes = load_schema().classes
    stated = marks[marks["value"] != NOT_STATED]
    assert all(value in classes[name] for name, value in zip(stated["attribute"], stated["value"], strict=True))
