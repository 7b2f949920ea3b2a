"""The baseline that few report and many do not beat: predicted attributes, each in one fixed sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import yaml

from datamodules.batch import MISSING
from datamodules.errors import DataError
from datamodules.reports.schema import AttributeSchema

SENTENCES = Path(__file__).parent / "sentences.yaml"
PRESENCE = "lesion_present"
STATED_FROM = 0.5
"""Share of the training reports of kidneys with, or without, a lesion from which an attribute is worth a sentence."""


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
    diseased = values.get(PRESENCE) != "no"
    order = [PRESENCE, *(a.name for a in schema.attributes if a.level == "lesion" and diseased)]
    order += [a.name for a in schema.attributes if a.level != "lesion" and a.name != PRESENCE]
    return " ".join(sentence(name, values[name], side) for name in order if name in values)


def stated_attributes(codes: np.ndarray, schema: AttributeSchema) -> dict[str, list[str]]:
    """Which attributes training reports state often, of kidneys without a lesion (`no`) and with one (`yes`).

    Args:
        codes: int64 [N, A], attributes of the training kidneys, -100 where not stated.
        schema: Attributes and classes.
    """
    names = list(schema.names)
    presence = codes[:, names.index(PRESENCE)]
    result = {}
    for value in ("yes", "no"):
        rows = codes[presence == schema.classes[PRESENCE].index(value)]
        share = (rows != MISSING).mean(axis=0) if len(rows) else np.zeros(len(names))
        result[value] = [name for name, part in zip(names, share, strict=True) if part >= STATED_FROM]
    return result


def template_reports(
    scores: Mapping[str, np.ndarray],
    classes: Mapping[str, Sequence[str]],
    sides: Sequence[str],
    stated: Mapping[str, Sequence[str]],
    schema: AttributeSchema,
) -> list[str]:
    """Reports of kidneys by the likeliest value of every attribute that is usually stated.

    Args:
        scores: float [N, classes] by attribute.
        classes: Values by attribute, in the order of the columns.
        sides: Side of each kidney.
        stated: As `stated_attributes` gives it.
        schema: Attributes.
    """
    likeliest = {name: [classes[name][column] for column in values.argmax(axis=1)] for name, values in scores.items()}
    reports = []
    for row, side in enumerate(sides):
        presence = likeliest[PRESENCE][row] if PRESENCE in likeliest else "yes"
        kept = [PRESENCE, *stated[presence]]
        reports.append(worded({name: likeliest[name][row] for name in kept if name in likeliest}, side, schema))
    return reports
