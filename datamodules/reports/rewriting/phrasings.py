"""Banks of phrasings: many ways to state every value of every attribute, as data.

They test the rules, and they are what the text stage knows of words that the training reports do not use. The first
three banks are learned from; the fourth is held back, so that what is learned can be chosen by words that were not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from datamodules.errors import DataError

LEARNED, HELD_BACK = ("first", "second", "third"), ("fourth",)
BANKS = (*LEARNED, *HELD_BACK)
NEAR_MISSES = "near_misses"
"""Key of a bank for sentences that do not state an attribute, though they look like it."""
_FOLDER = Path(__file__).with_name("phrasing_banks")


class Phrasing(NamedTuple):
    """A sentence about the left kidney and the value that it states; if of a lesion, one about a lesion of it."""

    attribute: str
    value: str
    text: str


def read_bank(name: str) -> dict[str, dict[str, Any]]:
    """One bank: attribute, value, sentences; under `near_misses` attribute and sentences that do not state it.

    Raises:
        DataError: if there is no such bank.
    """
    if name not in BANKS:
        raise DataError(f"Bank of phrasings {name!r} was found; choose of {', '.join(BANKS)}.")
    content: dict[str, dict[str, Any]] = yaml.safe_load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return content


def phrasings(names: Sequence[str]) -> list[Phrasing]:
    """The phrasings of some banks, in their order."""
    return [
        Phrasing(attribute, value, text)
        for name in names
        for attribute, values in read_bank(name).items()
        if attribute != NEAR_MISSES
        for value, texts in values.items()
        for text in texts
    ]
