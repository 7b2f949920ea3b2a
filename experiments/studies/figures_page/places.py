"""Places of figures in a Markdown page, and the tables and rows that they are read from."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from datamodules.errors import DataError

_PLACE = re.compile(r"<!--= (?P<call>[^<>]*?) -->(?P<text>[^<]*)<!--/-->")
_OPENED, _CLOSED = "<!--=", "<!--/-->"
_FIELDS = ("table", "row", "value", "arguments", "digits", "signed")


@dataclass(frozen=True)
class Figure:
    """A number that pages may show, as `results.yaml` defines it.

    Args:
        name: Its name in pages.
        table: CSV file below `runs/renal`, which begins with the name of the cohort; with {arguments}.
        row: Value by column of the one row; with {arguments}.
        value: Column of the number; with {arguments}. Its interval are the columns `<value>_low` and `<value>_high`, or
            `low` and `high`.
        arguments: Names of what a page says behind the figure's name, in order.
        digits: Digits behind the point.
        signed: Whether a sign is always shown, as of differences.
    """

    name: str
    table: str
    row: Mapping[str, str]
    value: str
    arguments: tuple[str, ...] = ()
    digits: int = 3
    signed: bool = False


class Call(NamedTuple):
    """What a page asks for in one place.

    Args:
        text: As the page has it, for messages.
        figure: Its definition, with the arguments put in.
        column: Column that is shown instead of the number with its interval; empty otherwise. `bare` is the number
            without it.
    """

    text: str
    figure: Figure
    column: str


@dataclass
class Filled:
    """A page with its figures.

    Args:
        text: The page.
        places: Number of places.
        missing: What is not there, by the place that asked for it.
    """

    text: str
    places: int = 0
    missing: dict[str, str] = field(default_factory=dict)


def read_figures(path: Path) -> dict[str, Figure]:
    """The figures of a definition file.

    Raises:
        DataError: if one lacks a field or has an unknown one.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise DataError(f"{path.name} is no mapping from names of figures to their tables.")
    return {str(name): _figure(path, str(name), entry) for name, entry in content.items()}


def _figure(path: Path, name: str, entry: Any) -> Figure:
    absent = [key for key in ("table", "row", "value") if not isinstance(entry, dict) or key not in entry]
    unknown = sorted(set(entry) - set(_FIELDS)) if isinstance(entry, dict) else []
    if absent or unknown or not isinstance(entry["row"], dict):
        raise DataError(
            f"Figure {name} of {path.name}: expected table, row (a mapping) and value, and at most "
            f"{', '.join(_FIELDS[3:])}; found without {', '.join(absent) or 'none'}, unknown "
            f"{', '.join(unknown) or 'none'}."
        )
    return Figure(
        name,
        str(entry["table"]),
        {str(column): str(value) for column, value in entry["row"].items()},
        str(entry["value"]),
        tuple(map(str, entry.get("arguments", ()))),
        int(entry.get("digits", 3)),
        bool(entry.get("signed", False)),
    )


def fill(page: str, figures: Mapping[str, Figure], show: Callable[[Call], str], where: str) -> Filled:
    """Write what `show` gives into every place of a page.

    A place is `<!--= name argument ... -->figure<!--/-->`; `name.column` shows another column of the row, and
    `name.bare` the number without its interval.

    Args:
        page: The page.
        figures: Definitions by name.
        show: Gives the text of a place; a `LookupError` says what is not there, and the place then reads "not run".
        where: Name of the page, for messages.

    Raises:
        DataError: if a place has no end, or asks for a figure that nothing defines.
    """
    if page.count(_OPENED) != len(_PLACE.findall(page)) or page.count(_CLOSED) != page.count(_OPENED):
        raise DataError(f"{where} has a place that does not end; expected <!--= name -->figure<!--/-->, on one line.")
    found = Filled("")

    def filled(match: re.Match[str]) -> str:
        call = read_call(match["call"], figures, where)
        found.places += 1
        try:
            text = show(call)
        except LookupError as error:
            found.missing[call.text] = str(error.args[0])
            text = "not run"
        return f"<!--= {match['call']} -->{text}{_CLOSED}"

    found.text = _PLACE.sub(filled, page)
    return found


def read_call(text: str, figures: Mapping[str, Figure], where: str) -> Call:
    """What a place asks for.

    Raises:
        DataError: if nothing defines it, or it has other arguments than its definition.
    """
    try:
        name, *given = shlex.split(text)
    except ValueError as error:
        raise DataError(f"{where} asks for {text!r}: {error}.") from error
    name, _, column = name.partition(".")
    if name not in figures:
        raise DataError(f"{where} asks for figure {name!r}, which is not defined; there are {', '.join(figures)}.")
    figure = figures[name]
    if len(given) != len(figure.arguments):
        raise DataError(
            f"{where} asks for {text!r}; expected {len(figure.arguments)} arguments behind {name}: "
            f"{', '.join(figure.arguments) or 'none'}."
        )
    arguments = dict(zip(figure.arguments, given, strict=True))
    put = replace(
        figure,
        table=figure.table.format(**arguments),
        row={key: value.format(**arguments) for key, value in figure.row.items()},
        value=figure.value.format(**arguments),
        arguments=(),
    )
    return Call(text, put, column)
