"""Configurations out of the plain data that checkpoints and exports hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

from lightning_modules.core.errors import ModelError

Config = TypeVar("Config")


def read_config(kind: type[Config], content: Config | Mapping[str, Any], what: str) -> Config:
    """A configuration itself, or read from plain data.

    Args:
        kind: A dataclass with a default for every field.
        content: The configuration, or its fields.
        what: What it is called in an error.

    Raises:
        ModelError: if a field is unknown.
    """
    if isinstance(content, kind):
        return content
    assert isinstance(content, Mapping)
    unknown = sorted(set(content) - {field.name for field in fields(kind)})  # type: ignore[arg-type]
    if unknown:
        raise ModelError(f"{what}: unknown fields {unknown}; it has {list(asdict(kind()))}.")  # type: ignore[call-overload]
    return kind(**content)
