"""YAML that users and colleagues write: plain data, bounded in size, depth and what its aliases expand to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from datamodules.errors import DataError

LARGEST_BYTES = 1 << 18
MOST_NODES = 10_000
"""Most mappings, lists and values of a file; an alias counts as all that it stands for, a text by its length."""
DEEPEST = 32
_CHARACTERS = 100  # of a text that count as one value

_EVENTS = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class UnboundedError(yaml.YAMLError):
    """YAML that would take for ever, or all memory, to read."""


def check_bounds(text: str) -> None:
    """Refuse YAML that is too large, too deep, or grows by its aliases (a few lines may stand for billions of values).

    Only its events are read, nothing is built. A text within it that is YAML itself is checked, too, since the parser
    of the command line reads such texts again.

    Args:
        text: The YAML.

    Raises:
        UnboundedError: saying what is too large.
        yaml.YAMLError: if it is no YAML.
    """
    if len(text) > LARGEST_BYTES:
        raise UnboundedError(f"it has {len(text)} characters, expected at most {LARGEST_BYTES}")
    sizes: dict[str, int] = {}
    groups: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(text, Loader=_EVENTS):
        if isinstance(event, yaml.CollectionStartEvent):
            groups.append((event.anchor, total))
            if len(groups) > DEEPEST:
                raise UnboundedError(f"it is nested deeper than {DEEPEST} levels")
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = groups.pop()
            if anchor is not None:
                sizes[anchor] = total - before
        elif isinstance(event, yaml.ScalarEvent):
            size = 1 + len(event.value) // _CHARACTERS
            total += size
            if event.anchor is not None:
                sizes[event.anchor] = size
            if "*" in event.value and "&" in event.value and event.value != text:
                _check_inner(event.value)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in (anchor for anchor, _ in groups):
                raise UnboundedError(f"the alias *{event.anchor} stands within what it stands for")
            total += sizes.get(str(event.anchor), 1)
        if total > MOST_NODES:
            raise UnboundedError(f"it stands for more than {MOST_NODES} values")


def _check_inner(text: str) -> None:
    try:
        check_bounds(text)
    except UnboundedError:
        raise
    except yaml.YAMLError:
        return  # a text, no YAML


def parse_yaml(text: str, name: str) -> Any:
    """Plain data of YAML; nothing in it is executed.

    Args:
        text: The YAML.
        name: What it is called in the error.

    Raises:
        DataError: if it is no plain YAML, or too large.
    """
    try:
        check_bounds(text)
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date or a number may be none that exists
        raise DataError(f"{name} is not plain YAML: {' '.join(str(error).split())}; correct it.") from error


def read_yaml(path: Path, name: str | None = None) -> Any:
    """Plain data of a YAML file.

    Args:
        path: The file.
        name: What it is called in the error; its file name by default.

    Raises:
        DataError: if it is absent, no plain YAML, or too large.
    """
    name = name or path.name
    if not path.is_file():
        raise DataError(f"{name} does not exist; name a YAML file.")
    if path.stat().st_size > LARGEST_BYTES:
        raise DataError(f"{name} has {path.stat().st_size} bytes; expected a YAML file of at most {LARGEST_BYTES}.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name} is not plain YAML: it is no text in UTF-8 (byte {error.start}); correct it."
        ) from error
    return parse_yaml(text, name)
