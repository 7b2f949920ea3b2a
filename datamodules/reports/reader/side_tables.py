"""Tables of a report with a column a side: every cell becomes a line of its kidney, and is read as a template is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from datamodules.reports.reader.organs import LESION

_SIDE = re.compile(
    r"(?:the )?(?:(?P<left>left|lt|l)|(?P<right>right|rt|r))\b\.?(?: (?:kidney|renal|side))?:?", re.IGNORECASE
)
_GAP = re.compile(r"[^\S\n]{2,}|\t")
_RULE = re.compile(r"[|:+\s=-]+")
_SIZE = re.compile(r"[\d., x×]+(?:[cm]m[ x×]*[\d., ]*)*", re.IGNORECASE)
_LONGEST_LABEL = 40

Letters = list[tuple[str, int]]


@dataclass(frozen=True)
class _Cell:
    text: str
    start: int


def spread(text: str) -> Letters:
    """The letters of a report with tables of two sides written out, each with where it, or its cell, stands.

    A table begins with a line that names the two sides alone, beside at most one word for the labels; its rows are a
    label and two cells, or two cells. Cells are parted by bars, tabs or two blanks. It ends with an empty line, or with
    one that is no row.

    Args:
        text: The report as it is stored.
    """
    letters: Letters = []
    lines = list(_lines(text))
    place = 0
    while place < len(lines):
        start, line = lines[place]
        sides = _header(_cells(line, start))
        rows: list[list[_Cell]] = []
        after = place + 1
        while sides and after < len(lines) and (found := _row(lines[after], sides)) is not None:
            rows += [found] if found else []
            after += 1
        if sides and rows:
            letters += _written(rows, [side for side in sides if side], text)
            place = after
        else:
            letters += [(letter, start + number) for number, letter in enumerate(line)]
            place += 1
    return letters


def _lines(text: str) -> Iterator[tuple[int, str]]:
    start = 0
    for line in text.splitlines(keepends=True):
        yield start, line
        start += len(line)


def _cells(line: str, start: int) -> list[_Cell]:
    """Cells of a line; the one before a leading gap or bar is empty where there are bars."""
    plain = line.rstrip()
    if "|" in plain:
        inner = plain.strip()
        first = start + line.index(inner) + inner.startswith("|")
        parts, cells = inner.removeprefix("|").removesuffix("|").split("|"), []
        for part in parts:
            cells.append(_Cell(part.strip(), first + len(part) - len(part.lstrip())))
            first += len(part) + 1
        return cells
    cells, at = [], len(plain) - len(plain.lstrip())
    for gap in [*_GAP.finditer(plain, at), None]:
        end = len(plain) if gap is None else gap.start()
        cells.append(_Cell(plain[at:end].strip(), start + at))
        at = end if gap is None else gap.end()
    return cells


def _header(cells: list[_Cell]) -> list[str] | None:
    """Side of each column, empty for that of the labels; None where a line is no header."""
    sides = []
    for cell in cells:
        found = _SIDE.fullmatch(cell.text)
        sides.append("" if found is None else str(found.lastgroup))
    labels = [cell.text for cell, side in zip(cells, sides, strict=True) if not side]
    if sorted(filter(None, sides)) != ["left", "right"] or len(labels) > 1 or (labels and sides[0]):
        return None
    return None if any(len(label) > _LONGEST_LABEL or label.endswith(".") for label in labels) else sides


def _row(line: tuple[int, str], sides: list[str]) -> list[_Cell] | None:
    """Label and cells of a row, the label empty where the table has none; [] of a rule, None where the table ends."""
    start, text = line
    if not text.strip():
        return None
    if _RULE.fullmatch(text):
        return []
    cells = _cells(text, start)
    if len(cells) == 3 and len(cells[0].text) <= _LONGEST_LABEL:
        return cells
    return [_Cell("", start), *cells] if len(cells) == 2 and len(sides) == 2 else None


def _written(rows: list[list[_Cell]], sides: list[str], text: str) -> Letters:
    """Every cell as a line of its side, then a heading that ends the sides."""
    letters: Letters = []
    last = rows[-1][-1].start
    lesions = False
    for label, *cells in rows:
        lesions = lesions or LESION.search(" ".join([label.text, *(cell.text for cell in cells)])) is not None
        for cell, side in zip(cells, sides, strict=True):
            if not cell.text:
                continue
            name = label.text.rstrip(":")
            # A size is that of the kidney, until a lesion is spoken of.
            if not lesions and _SIZE.fullmatch(cell.text) and name.casefold() in ("", "size", "kidney size"):
                name = "Length"
            name = f"{name}: " if name else ""
            letters += [(letter, cell.start) for letter in f"{side.capitalize()} kidney: {name}"]
            letters += [(letter, cell.start + number) for number, letter in enumerate(cell.text)]
            last = min(cell.start + len(cell.text), len(text) - 1)
            letters += [(letter, last) for letter in (".\n" if cell.text[-1].isalnum() else "\n")]
    return letters + [(letter, last) for letter in "Findings:\n"]
