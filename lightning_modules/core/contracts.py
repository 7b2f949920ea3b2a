"""Comparing preprocessing contracts, which travel with every checkpoint and exported encoder as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NOT_COMPARED = ("region", "version")


def differing_fields(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """The fields that make data unfit for a network: name, value there, value here; what a region is centred on may
    differ."""
    return [
        (name, theirs.get(name), ours.get(name))
        for name in sorted({*theirs, *ours})
        if name not in _NOT_COMPARED and theirs.get(name) != ours.get(name)
    ]
