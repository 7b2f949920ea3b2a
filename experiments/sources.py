"""Where cohorts come from: one entry per kind of source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from datamodules.demo.source import DemoSource
from datamodules.errors import DataError
from datamodules.importers.kits23 import Kits23Source
from datamodules.records import Source
from experiments.registry import choose


def _has_kits_table(path: Path) -> bool:
    return (path / "kits23.json").is_file()


SOURCES: dict[str, tuple[type, str | None, Callable[[Path], bool]]] = {
    # name: class, the argument that takes the path, and how a path of this kind is recognised
    "demo": (DemoSource, None, lambda path: False),
    "kits23": (Kits23Source, "folder", _has_kits_table),
}


def recognise(path: Path) -> str:
    """The kind of source that a path holds.

    Raises:
        DataError: if the path does not exist or looks like none.
    """
    if not path.exists():
        raise DataError(f"SOURCE {path.name} does not exist; name a folder or a manifest.")
    for name, (_, _, matches) in SOURCES.items():
        if matches(path):
            return name
    raise DataError(f"SOURCE {path.name} was not recognised; name its KIND, one of {', '.join(SOURCES)}.")


def make_source(kind: str, path: Path | None, options: dict[str, str]) -> Source:
    """A source from its kind, its path and its options as text.

    Raises:
        DataError: if the kind or an option is unknown, or a value has another type.
    """
    choose("KIND", kind, dict(SOURCES))
    cls, argument, _ = SOURCES[kind]
    values: dict[str, Any] = dict(options)
    if argument is not None and path is not None:
        values[argument] = str(path)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls)
    try:
        parsed = parser.parse_args([f"--{name}={value}" for name, value in values.items()])
    except Exception as error:  # jsonargparse raises ArgumentError for every misuse, some with a cause
        reason = " ".join(str(error).split())
        raise DataError(f"Options of the {kind} source were refused: {reason}") from error
    source: Source = cls(**parser.instantiate_classes(parsed).as_dict())
    return source
