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


class RefusedYamlError(yaml.YAMLError):
    """YAML that would take for ever, or all memory, to read, or that says one thing twice."""


def check_bounds(text: str) -> None:
    """Refuse YAML that is too large, too deep, or grows by its aliases (a few lines may stand for billions of values).

    Only its events are read, nothing is built. A text within it that is YAML itself is checked, too, since the parser
    of the command line reads such texts again.

    Args:
        text: The YAML.

    Raises:
        RefusedYamlError: saying what is too large.
        yaml.YAMLError: if it is no YAML.
    """
    if len(text) > LARGEST_BYTES:
        raise RefusedYamlError(f"it has {len(text)} characters, expected at most {LARGEST_BYTES}")
    sizes: dict[str, int] = {}
    groups: list[tuple[str | None, int]] = []
    keys = _Keys()
    total = 0
    for event in yaml.parse(text, Loader=_EVENTS):
        keys.see(event)
        if isinstance(event, yaml.CollectionStartEvent):
            groups.append((event.anchor, total))
            if len(groups) > DEEPEST:
                raise RefusedYamlError(f"it is nested deeper than {DEEPEST} levels")
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
                raise RefusedYamlError(f"the alias *{event.anchor} stands within what it stands for")
            total += sizes.get(str(event.anchor), 1)
        if total > MOST_NODES:
            raise RefusedYamlError(f"it stands for more than {MOST_NODES} values")


class _Keys:
    """The keys of the mappings that are open, by the events of a parser: of two that are the same, YAML keeps one."""

    def __init__(self) -> None:
        self._open: list[tuple[set[str], bool] | None] = []  # of a mapping, its keys and whether one is due
        self._documents = 0

    def see(self, event: yaml.Event) -> None:
        """Take the next event.

        Raises:
            RefusedYamlError: if a key stands twice in a mapping, or a second document begins.
        """
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise RefusedYamlError("it holds more than one document")
        elif isinstance(event, yaml.CollectionEndEvent):
            self._open.pop()
        elif isinstance(event, yaml.ScalarEvent | yaml.AliasEvent | yaml.CollectionStartEvent):
            self._node(event)
            if isinstance(event, yaml.CollectionStartEvent):
                self._open.append((set(), True) if isinstance(event, yaml.MappingStartEvent) else None)

    def _node(self, event: yaml.Event) -> None:
        if not self._open or self._open[-1] is None:
            return
        keys, is_key = self._open[-1]
        if is_key and isinstance(event, yaml.ScalarEvent) and event.value != "<<":
            if event.value in keys:
                raise RefusedYamlError(f"the key {event.value[:80]!r} stands twice in one mapping")
            keys.add(event.value)
        self._open[-1] = keys, not is_key


def _check_inner(text: str) -> None:
    try:
        check_bounds(text)
    except RefusedYamlError:
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
