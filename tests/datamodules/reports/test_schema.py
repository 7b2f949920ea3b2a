"""The attribute schema: it speaks the phantoms' language, and refuses what it cannot read."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from datamodules.errors import DataError
from datamodules.phantoms.phantom_source import DemoSource
from datamodules.phantoms.stated_attributes import ATTRIBUTES, KIDNEY_ATTRIBUTES
from datamodules.reports.schema import SCHEMA_FILE, Measure, load_schema


def test_the_attributes_are_the_phantoms() -> None:
    schema = load_schema()
    assert schema.names == ATTRIBUTES
    levels = {entry.name: entry.level for entry in schema.attributes}
    assert {name for name, level in levels.items() if level == "kidney"} == set(KIDNEY_ATTRIBUTES)


@pytest.mark.slow
def test_the_classes_hold_every_value_of_the_truth() -> None:
    truth = DemoSource(400, 3).tables()["truth"]
    for name, classes in load_schema().classes.items():
        assert set(truth[name].dropna()) == set(classes), name


def test_every_entry_says_what_it_means() -> None:
    for entry in load_schema().attributes:
        assert entry.question.endswith("?")
        assert len(entry.definition) > 10
        assert entry.not_stated
        assert all(value.definition for value in entry.classes)
        assert entry.measure or any(value.patterns for value in entry.classes)


@pytest.mark.parametrize(
    ("quantity", "value", "expected"),
    [
        ("size_class", 40.0, "to_4_cm"),
        ("size_class", 40.01, "4_to_7_cm"),
        ("size_class", 69.9, "4_to_7_cm"),
        ("size_class", 70.0, "from_7_cm"),
        ("exophytic", 0.0, "endophytic"),
        ("exophytic", 49.0, "partly"),
        ("exophytic", 50.0, "mostly"),
        ("collecting_nearness", 4.0, "abutting"),
        ("collecting_nearness", 5.5, "near"),
        ("collecting_nearness", 7.0, "distant"),
    ],
)
def test_a_number_at_a_bound_gets_the_class_of_the_article(quantity: str, value: float, expected: str) -> None:
    measure = load_schema()[quantity].measure
    assert measure is not None
    assert measure.class_of(value) == expected


def test_one_closed_side_serves_all_bounds() -> None:
    measure = Measure("diameter_mm", (1.0, 2.0), ("a", "b", "c"), "left")
    assert [measure.class_of(value) for value in (0.5, 1.0, 2.0)] == ["a", "b", "c"]


def _content() -> dict[str, object]:
    content: dict[str, object] = yaml.safe_load(SCHEMA_FILE.read_text(encoding="utf-8"))
    return content


def _written(folder: Path, content: object) -> Path:
    path = folder / "schema.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.mark.slow
def test_the_hash_changes_with_a_pattern(tmp_path: Path) -> None:
    content = _content()
    same = load_schema(_written(tmp_path, content)).hash
    content["attributes"][0]["classes"][0]["patterns"].append("blob")  # type: ignore[index]
    other = tmp_path / "other"
    other.mkdir()
    assert same == load_schema().hash != load_schema(_written(other, content)).hash


def _two(**first: object) -> dict[str, object]:
    """An entry whose first class has these fields."""
    return {"classes": [{"name": "a", "definition": "x"} | first, {"name": "b", "definition": "y"}]}


def _measure(bounds: list[int]) -> dict[str, object]:
    return {"measure": {"quantity": "diameter_mm", "bounds": bounds, "classes": ["a", "b", "a"]}}


BAD: dict[str, tuple[object, str]] = {
    "entry": ("pole", "where an attribute's fields were expected"),
    "boolean class": (_two(name=True), "only in quotes"),
    "one class": ({"classes": [{"name": "a", "definition": "x"}]}, "two or more"),
    "unknown negated": (_two(negated="c"), "named elsewhere"),
    "pattern": (_two(patterns=["(a"]), "cannot be read"),
    "fragment": (_two(patterns=["<mass>"]), "cannot be read"),
    "level": ({"level": "organ"}, "expected level kidney or lesion"),
    "yields": ({"yields_to": ["shape"]}, "not in the schema"),
    "implies": (_two(implies={"pole": "c"}), "not in the schema"),
    "bounds": (_measure([2, 1]), "do not part"),
    "field": ({"colour": "red"}, "colour"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_schema_is_refused_in_a_sentence(case: str, tmp_path: Path) -> None:
    entry, words = BAD[case]
    plain = {
        "name": "pole",
        "level": "lesion",
        "question": "Where?",
        "definition": "Where it lies.",
        "not_stated": "Not given.",
        **_two(),
    }
    entries = [plain | entry if isinstance(entry, dict) else entry]
    with pytest.raises(DataError, match=words):
        load_schema(_written(tmp_path, {"version": 1, "attributes": entries}))


@pytest.mark.parametrize("content", [{"attributes": []}, ["attributes"], {"version": 1, "attributes": [], "more": 1}])
def test_other_keys_are_refused(content: object, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected the keys"):
        load_schema(_written(tmp_path, content))


def test_a_missing_file_and_an_unknown_attribute_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.yaml could not be read"):
        load_schema(tmp_path / "absent.yaml")
    with pytest.raises(DataError, match="it has lesion_present"):
        load_schema()["shape"]


def test_an_attribute_cannot_stand_twice(tmp_path: Path) -> None:
    content = _content()
    content["attributes"].append(content["attributes"][0])  # type: ignore[attr-defined,index]
    with pytest.raises(DataError, match="stand twice"):
        load_schema(_written(tmp_path, content))
