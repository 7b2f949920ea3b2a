"""The attribute schema: read from one file, versioned, the same for every extractor and for the image encoder."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from datamodules.errors import DataError

SCHEMA_FILE = Path(__file__).with_name("attributes.yaml")

Closed = Literal["left", "right"]
Level = Literal["kidney", "lesion"]
Organ = Literal["kidney", "adrenal", "nodes"]

_KEYS = ("version", "fragments", "attributes")


@dataclass(frozen=True)
class AttributeClass:
    """One value of an attribute.

    Args:
        name: Name of the value.
        definition: When it holds, in a radiologist's terms.
        patterns: Regular expressions (case-insensitive) that state it in a sentence.
        negated: Value that such a sentence states under negation; None when a negation leaves it open.
        implies: Values of other attributes that this one states with it, by attribute.
    """

    name: str
    definition: str
    patterns: tuple[str, ...] = ()
    negated: str | None = None
    implies: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measure:
    """A number that decides the class of an attribute.

    Args:
        quantity: `diameter_mm`, `distance_mm` (to sinus or collecting system), `exophytic_percent`, `unenhanced_hu`,
            `enhancement_hu` (rise by contrast).
        bounds: Rising bounds between the classes, in the order of `classes`.
        classes: Names of the classes, one more than bounds.
        closed: Side on which a bound belongs to an interval, for all bounds or one by one: `right` puts a value that
            equals a bound in the lower class, `left` in the upper one.
    """

    quantity: str
    bounds: tuple[float, ...]
    classes: tuple[str, ...]
    closed: Closed | tuple[Closed, ...] = "right"

    def class_of(self, value: float) -> str:
        """The class of a value."""
        sides = (self.closed,) * len(self.bounds) if isinstance(self.closed, str) else self.closed
        pairs = zip(self.bounds, sides, strict=True)
        return self.classes[sum(value > bound if side == "right" else value >= bound for bound, side in pairs)]


@dataclass(frozen=True)
class Attribute:
    """One thing that a radiologist reports of a kidney and that a CT shows.

    Args:
        name: Name, as column and as head of the image encoder.
        level: `kidney`, or `lesion` for the largest lesion of a kidney; of a kidney without lesion it is not stated.
        question: What a reader of the report is asked.
        definition: What is meant, with its source.
        not_stated: What counts as not stated.
        classes: Its values.
        synonyms: Other words for the attribute.
        topic: Regular expressions of which one must be in a sentence (or its subject) for a pattern of a class to
            count; empty when the patterns speak for themselves.
        measure: A number that decides the class.
        organ: Whose sentences state it: those on the `kidney` with its vessels and surroundings, on the `adrenal`
            gland, or on lymph `nodes`.
        unless: Regular expressions of words that make a clause speak of something else.
        yields_to: Attributes whose longer pattern takes the words of this one's: "homogeneous enhancement" says
            nothing of the lesion's own homogeneity.
        ordinal: Whether the classes rise in severity, so that the most severe of several affirmed ones counts;
            otherwise the first does.
    """

    name: str
    level: Level
    question: str
    definition: str
    not_stated: str
    classes: tuple[AttributeClass, ...]
    synonyms: tuple[str, ...] = ()
    topic: tuple[str, ...] = ()
    measure: Measure | None = None
    organ: Organ = "kidney"
    unless: tuple[str, ...] = ()
    yields_to: tuple[str, ...] = ()
    ordinal: bool = False

    @property
    def class_names(self) -> tuple[str, ...]:
        """The values in the order of the class indices."""
        return tuple(entry.name for entry in self.classes)


@dataclass(frozen=True)
class AttributeSchema:
    """All attributes.

    Args:
        version: Version of the schema, raised with every change of an attribute or class.
        attributes: In the order of the heads and of the batch's columns.
    """

    version: int
    attributes: tuple[Attribute, ...]
    source: str = field(default="", compare=False)

    def __getitem__(self, name: str) -> Attribute:
        """The attribute of that name."""
        for attribute in self.attributes:
            if attribute.name == name:
                return attribute
        raise DataError(f"Attribute {name!r} is not in the schema; it has {', '.join(self.names)}.")

    @property
    def names(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(attribute.name for attribute in self.attributes)

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """Class names by attribute, the plain data that the image encoder and its checkpoints need."""
        return {attribute.name: attribute.class_names for attribute in self.attributes}

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that change with any field."""
        content = json.dumps([self.version, [asdict(attribute) for attribute in self.attributes]], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]


@cache
def load_schema(path: Path = SCHEMA_FILE) -> AttributeSchema:
    """Read a schema file.

    Args:
        path: YAML file; the suite's own by default.

    Raises:
        DataError: naming the attribute and field that is wrong.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"Attribute schema {path.name} could not be read: {' '.join(str(error).split())}.") from error
    if not isinstance(content, Mapping) or not {"version", "attributes"} <= set(content) <= set(_KEYS):
        raise DataError(f"Attribute schema {path.name}: expected the keys `version`, `attributes`, `fragments` only.")
    fragments: dict[str, str] = {}
    for name, pattern in (content.get("fragments") or {}).items():
        fragments[name] = _expanded(path.name, name, pattern, fragments)
    attributes = tuple(_attribute(path.name, entry, fragments) for entry in content["attributes"])
    names = [attribute.name for attribute in attributes]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"Attribute schema {path.name}: {repeated} stand twice; an attribute has one entry.")
    schema = AttributeSchema(int(content["version"]), attributes, path.name)
    _check_references(schema)
    return schema


def _check_references(schema: AttributeSchema) -> None:
    """Refuse implied values and attributes that do not exist."""
    for attribute in schema.attributes:
        implied = [pair for entry in attribute.classes for pair in entry.implies.items()]
        strange = [f"{name} = {value}" for name, value in implied if value not in schema.classes.get(name, ())]
        strange += [name for name in attribute.yields_to if name not in schema.names]
        if strange:
            raise DataError(
                f"Attribute schema {schema.source}, attribute {attribute.name}: implies or yields to {strange}, which "
                f"is not in the schema; it has {', '.join(schema.names)}."
            )


def _attribute(file: str, entry: Mapping[str, Any], fragments: Mapping[str, str]) -> Attribute:
    if not isinstance(entry, Mapping):
        raise DataError(f"Attribute schema {file}: found {entry!r} where an attribute's fields were expected.")
    name = entry.get("name", "without name")

    def patterns(fields: Mapping[str, Any], field_name: str) -> tuple[str, ...]:
        return tuple(_expanded(file, name, pattern, fragments) for pattern in fields.get(field_name, ()))

    try:
        classes = tuple(
            AttributeClass(**{**fields, "patterns": patterns(fields, "patterns")}) for fields in entry["classes"]
        )
        measure = entry.get("measure")
        attribute = Attribute(
            **{
                **entry,
                "classes": classes,
                "synonyms": tuple(entry.get("synonyms", ())),
                "yields_to": tuple(entry.get("yields_to", ())),
                "topic": patterns(entry, "topic"),
                "unless": patterns(entry, "unless"),
                "measure": Measure(**{key: _frozen(value) for key, value in measure.items()}) if measure else None,
            }
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(f"Attribute schema {file}, attribute {name}: {error}; see the other entries.") from error
    _check_attribute(file, attribute)
    return attribute


def _check_attribute(file: str, attribute: Attribute) -> None:
    known, where = attribute.class_names, f"Attribute schema {file}, attribute {attribute.name}"
    strays = {entry.negated for entry in attribute.classes if entry.negated is not None}
    strange = sorted((strays | set(attribute.measure.classes if attribute.measure else ())) - set(known))
    if len(known) < 2 or len(set(known)) != len(known) or strange:
        raise DataError(
            f"{where}: classes {known}, and {strange} named elsewhere in it; "
            "expected two or more distinct classes and no other."
        )
    if not all(isinstance(word, str) for word in known):
        raise DataError(f"{where}: classes {known} are not all words; YAML reads yes and no as such only in quotes.")
    if attribute.level not in get_args(Level) or attribute.organ not in get_args(Organ):
        raise DataError(
            f"{where}: level {attribute.level}, organ {attribute.organ}; expected level {' or '.join(get_args(Level))} "
            f"and organ {', '.join(get_args(Organ))}."
        )
    measure = attribute.measure
    if measure and not (
        len(measure.classes) == len(measure.bounds) + 1 and sorted(measure.bounds) == [*measure.bounds]
    ):
        raise DataError(f"{where}: bounds {measure.bounds} do not part the classes {measure.classes}; let them rise.")


def _expanded(file: str, name: str, pattern: str, fragments: Mapping[str, str]) -> str:
    """A pattern with its fragments filled in."""
    try:
        full = re.sub(r"<([a-z_]+)>", lambda match: fragments[match[1]], pattern)
        re.compile(full)
    except (KeyError, TypeError, re.error) as error:
        raise DataError(
            f"Attribute schema {file}, {name}: the pattern {pattern!r} cannot be read ({error}); expected a regular "
            f"expression with the fragments {', '.join(fragments)}."
        ) from error
    return full


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
