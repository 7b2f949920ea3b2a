"""Values of DICOM attributes as numbers and words; what a file states badly is absent, not an error."""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pydicom
from pydicom import config
from pydicom.datadict import tag_for_keyword

_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d*(?:[eE][+-]?\d+)?")


class DicomWarning(UserWarning):
    """A file departs from the standard, as pydicom or a decoder of it says in words that quote values."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the words of pydicom's warnings, which quote values, out of logs; that there were some is said once.

    What is read is checked afterwards, value by value, and pixels by their shape.

    Warns:
        DicomWarning: if there were any.
    """
    mode = config.settings.reading_validation_mode
    config.settings.reading_validation_mode = config.IGNORE
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            yield
    finally:
        config.settings.reading_validation_mode = mode
    for module in sorted({Path(one.filename).parent.name for one in found}):
        warnings.warn(
            f"{module} warns of DICOM files that depart from the standard; its words quote values and are left out.",
            DicomWarning,
            stacklevel=3,
        )


def value_of(dataset: pydicom.Dataset, name: str) -> Any:
    """A value, or None where it is absent or cannot be read as what it should be."""
    try:
        return dataset.get(name)
    except (ValueError, TypeError, KeyError, NotImplementedError):
        return None


def values_of(dataset: pydicom.Dataset, name: str) -> Sequence[Any]:
    """All values of an attribute; none where it is absent."""
    found = value_of(dataset, name)
    if found is None:
        return ()
    return [found] if isinstance(found, str | int | float) else list(found)


def numbers_of(dataset: pydicom.Dataset, name: str, count: int) -> tuple[float, ...] | None:
    """Exactly `count` finite numbers, or None.

    A decimal comma is read as a point: DS values are parted by backslashes and have no thousands, so that a comma
    between digits can mean nothing else (DICOM PS3.5, 6.2).
    """
    try:
        found = tuple(_number(item) for item in values_of(dataset, name))
    except (ValueError, TypeError):
        return None
    return found if len(found) == count and all(map(math.isfinite, found)) else None


def _number(item: Any) -> float:
    text = item.strip(" \0") if isinstance(item, str) else ""  # what could not be read as a number comes as text
    return float(text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text) else item)


def states(dataset: pydicom.Dataset, name: str) -> bool:
    """Whether an attribute has a value, be it one that cannot be read."""
    tag = tag_for_keyword(name)
    element = None if tag is None else dataset.get_item(tag)
    return element is not None and getattr(element, "value", None) not in (None, b"", "", [])


def number_of(dataset: pydicom.Dataset, name: str) -> float | None:
    """One number, or None."""
    found = numbers_of(dataset, name, 1)
    return None if found is None else found[0]


def whole_of(dataset: pydicom.Dataset, name: str) -> int | None:
    """One whole number, or None."""
    found = number_of(dataset, name)
    return None if found is None else int(found)


def age_years(text: str) -> float | None:
    """Age of an AS value such as `063Y`, also without its leading zeros or its unit."""
    units = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25, "": 1.0}
    found = re.fullmatch(r"(\d{1,3})([YMWD]?)", text.strip().upper())
    return None if found is None else round(int(found[1]) * units[found[2]], 2)


def delay_s(dataset: pydicom.Dataset) -> float | None:
    """Seconds from injection to acquisition; None where a time is absent or the order is impossible."""
    times = [_seconds(str(value_of(dataset, name) or "")) for name in ("ContrastBolusStartTime", "AcquisitionTime")]
    if times[0] is None or times[1] is None:
        return None
    delay = times[1] - times[0]
    return delay if 0.0 < delay <= 3600.0 else None


def _seconds(text: str) -> float | None:
    """Seconds since midnight of a TM value, `HHMMSS.ffffff`."""
    if len(text) < 6 or not text[:6].isdigit():
        return None
    fraction = float(text[6:]) if text[6:7] == "." and text[7:].isdigit() else 0.0
    return 3600.0 * int(text[:2]) + 60.0 * int(text[2:4]) + int(text[4:6]) + fraction
