"""What hospitals write for a value of which the tables know one spelling."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from datamodules.cohort.clinical import parse_grade, parse_stage

AGE_GROUP = 90.0
"""What stands for every age above 89: so old a patient may be known by the age alone (HIPAA, 45 CFR 164.514(b)(2))."""

_FEMALE = ("female", "f", "w", "woman", "weiblich", "femme", "femenino", "femminile", "女")
_MALE = ("male", "m", "man", "männlich", "maennlich", "homme", "masculin", "masculino", "maschile", "男")
_LEFT, _RIGHT = ("left", "l", "lt", "links"), ("right", "r", "rt", "rechts")

SPELLINGS: dict[str, dict[str, str]] = {
    "sex": {**dict.fromkeys(_FEMALE, "female"), **dict.fromkeys(_MALE, "male")},
    **{name: {**dict.fromkeys(_LEFT, "left"), **dict.fromkeys(_RIGHT, "right")} for name in ("side", "index_side")},
}
"""By column and in lower case; what is not listed stays as it is and is judged by the schema."""

ABSENT = frozenset({"na", "n/a", "#n/a", "nan", "none", "null", "<na>", ".", "-", "--", "?", "unknown", "missing"})
"""Words for a missing value of a column that holds no free text."""

PARSERS: dict[str, Callable[[str], Any]] = {
    "stage_pt": functools.partial(parse_stage, letter="t"),
    "stage_pn": functools.partial(parse_stage, letter="n"),
    "stage_pm": functools.partial(parse_stage, letter="m"),
    "isup_grade": lambda text: parse_grade(text.removesuffix(".0").removesuffix(",0")),
}
"""By column, what reads a code of pathology (`pT3a`, `G2`); each raises ValueError for any other text."""


def grouped_age(age_years: float) -> float:
    """The age, or the group above 89."""
    return AGE_GROUP if age_years > 89 else age_years
