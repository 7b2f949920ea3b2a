"""The baseline that few report and many do not beat: predicted attributes, each in one fixed sentence."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import yaml

from datamodules.errors import DataError
from datamodules.reports.schema import AttributeSchema

SENTENCES = Path(__file__).parent / "sentences.yaml"
PRESENCE = "lesion_present"


@lru_cache(maxsize=1)
def _sentences() -> dict[str, dict[str, str]]:
    content = yaml.safe_load(SENTENCES.read_text(encoding="utf-8"))
    return {name: dict(values) for level in content.values() for name, values in level.items()}


def check_sentences(schema: AttributeSchema) -> None:
    """Refuse a schema that has values without a sentence.

    Raises:
        DataError: naming them.
    """
    known = _sentences()
    absent = [
        f"{name} = {value}" for name, values in schema.classes.items() for value in values
        if value not in known.get(name, {})
    ]  # fmt: skip
    if absent:
        raise DataError(
            f"{SENTENCES.name} has no sentence for {', '.join(absent[:5])}; the template baseline words every value of "
            "the attribute schema, so add one."
        )


def sentence(attribute: str, value: str, side: str) -> str:
    """The fixed sentence of a value of the attribute schema."""
    return _sentences()[attribute][value].format(side=side)


def worded(values: Mapping[str, str], side: str, schema: AttributeSchema) -> str:
    """The report of a kidney with these attributes.

    Args:
        values: Value by attribute; those of the lesion are left out where there is none.
        side: left or right.
        schema: Attributes, in whose order they are worded, those of the kidney last.
    """
    return " ".join(sentence(name, values[name], side) for name in spoken(values, schema))


def spoken(values: Mapping[str, str], schema: AttributeSchema) -> list[str]:
    """The attributes of a kidney in the order in which a report says them; of a lesion only where there is one."""
    diseased = values.get(PRESENCE) != "no"
    order = [PRESENCE, *(a.name for a in schema.attributes if a.level == "lesion" and diseased)]
    order += [a.name for a in schema.attributes if a.level != "lesion" and a.name != PRESENCE]
    return [name for name in order if name in values]
