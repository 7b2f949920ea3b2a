"""Odd clinical tables and reports, one function a kind: what spreadsheets, registries and exports make of a table.

Each kind changes the bytes of a table; `LINES` of it are a header and one row a patient or report.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable

import numpy as np

Kind = Callable[[str, np.random.Generator], bytes]


def _lines(change: Callable[[list[str], np.random.Generator], list[str]]) -> Kind:
    def made(text: str, rng: np.random.Generator) -> bytes:
        return ("\n".join(change(text.splitlines(), rng)) + "\n").encode()

    made.__name__ = change.__name__
    return made


@_lines
def a_title(lines: list[str], rng: np.random.Generator) -> list[str]:
    return ["Export of the registry, 2020" if rng.random() < 0.5 else '"Export, all rows"', *lines]


@_lines
def units_below_the_header(lines: list[str], rng: np.random.Generator) -> list[str]:
    return [lines[0], ",".join("(unit)" for _ in lines[0].split(",")), *lines[1:]]


@_lines
def a_sum_at_the_end(lines: list[str], rng: np.random.Generator) -> list[str]:
    cells = ["Mean", *("" for _ in lines[0].split(",")[1:])]
    return [*lines, ",".join(cells)]


@_lines
def the_header_again(lines: list[str], rng: np.random.Generator) -> list[str]:
    """Two exports, one after the other."""
    return [*lines[:-1], lines[0], lines[-1]]


@_lines
def remarks(lines: list[str], rng: np.random.Generator) -> list[str]:
    return ["# made by hand", *lines] if rng.random() < 0.5 else [*lines, "# end"]


@_lines
def rows_twice(lines: list[str], rng: np.random.Generator) -> list[str]:
    return [*lines, lines[1]]


@_lines
def one_row_moved(lines: list[str], rng: np.random.Generator) -> list[str]:
    """A cell too many at the beginning, one too few at the end."""
    cells = lines[-1].split(",")
    return [*lines[:-1], ",".join([cells[0], "", *cells[1:-1]])]


@_lines
def two_cells_exchanged(lines: list[str], rng: np.random.Generator) -> list[str]:
    cells = lines[-1].split(",")
    cells[0], cells[1] = cells[1], cells[0]
    return [*lines[:-1], ",".join(cells)]


@_lines
def header_missing(lines: list[str], rng: np.random.Generator) -> list[str]:
    return lines[1:]


@_lines
def rows_of_tabs_among_commas(lines: list[str], rng: np.random.Generator) -> list[str]:
    return [*lines[:-1], lines[-1].replace(",", "\t")]


@_lines
def typographic_quotes(lines: list[str], rng: np.random.Generator) -> list[str]:
    return [line.replace('"', "“", 1).replace('"', "”", 1) for line in lines]


@_lines
def quote_left_open(lines: list[str], rng: np.random.Generator) -> list[str]:
    first, _, rest = lines[1].partition(",")
    return [lines[0], f'{first},"{rest}' if '"' not in rest else lines[1][:-1], *lines[2:]]


@_lines
def numbers_with_units(lines: list[str], rng: np.random.Generator) -> list[str]:
    return [line.replace("12.5", "12.5 months") for line in lines]


@_lines
def dates_for_months(lines: list[str], rng: np.random.Generator) -> list[str]:
    return [line.replace("12.5", str(rng.choice(["12-May", "2020-05-12", "43963", "12.05.2020"]))) for line in lines]


@_lines
def other_signs_for_digits(lines: list[str], rng: np.random.Generator) -> list[str]:
    """Right: digits of other scripts are digits."""
    table = str.maketrans("0123456789", "０１２３４５６７８９" if rng.random() < 0.5 else "٠١٢٣٤٥٦٧٨٩")
    return [lines[0], *(re.sub(r"(?<=,)63(?=,)", lambda found: found[0].translate(table), line) for line in lines[1:])]


@_lines
def events_as_codes(lines: list[str], rng: np.random.Generator) -> list[str]:
    """2 is dead and 1 is alive, as programs of survival have it."""
    return [line.replace("true", "2").replace("false", "1") for line in lines]


@_lines
def events_in_words(lines: list[str], rng: np.random.Generator) -> list[str]:
    return [line.replace("true", "dead").replace("false", "alive") for line in lines]


@_lines
def negative_or_huge(lines: list[str], rng: np.random.Generator) -> list[str]:
    return [line.replace("12.5", str(rng.choice(["-12.5", "12500", "1e9", "−12.5"]))) for line in lines]


@_lines
def days_for_months(lines: list[str], rng: np.random.Generator) -> list[str]:
    return [line.replace("12.5", "3804.7").replace(",30,", ",9131,") for line in lines]


@_lines
def thousands(lines: list[str], rng: np.random.Generator) -> list[str]:
    return [line.replace("12.5", '"1,250"') for line in lines]


@_lines
def signs_without_width(lines: list[str], rng: np.random.Generator) -> list[str]:
    """Right: around cells, not in them."""
    sign = str(rng.choice(["\u200b", "\u200e", "\ufeff", "\u00a0"]))
    return [re.sub(r"\b(p1|e1|63|male)\b", lambda found: f"{found[0]}{sign}", line) for line in lines]


@_lines
def lines_in_cells(lines: list[str], rng: np.random.Generator) -> list[str]:
    return [line.replace("p2,", '"p2\n",').replace("e2,", '"e2\n",') for line in lines]


@_lines
def empty_columns_and_rows(lines: list[str], rng: np.random.Generator) -> list[str]:
    """Right: spreadsheets leave them."""
    return ["", *(f"{line},," for line in lines[:2]), ",,,,,,,,", *(f"{line},," for line in lines[2:]), "", ""]


@_lines
def identifiers_as_numbers(lines: list[str], rng: np.random.Generator) -> list[str]:
    other = str(rng.choice(["1.0", "1E+00", "001", "p01", "P1 ", "p1.0", "p 1"]))
    return [re.sub(r"^(p1|e1)\b", other, line) for line in lines]


def old_line_ends(text: str, rng: np.random.Generator) -> bytes:
    """Right: line ends of an old system."""
    return text.replace("\n", "\r").encode()


def other_letters(text: str, rng: np.random.Generator) -> bytes:
    """An umlaut in another coding than UTF-8."""
    coding = ("latin-1", "cp1252", "mac-roman", "cp850")[int(rng.integers(4))]
    return text.replace("p2", "pü").replace("No mass", "Müller: no mass").encode(coding)


def other_computers(text: str, rng: np.random.Generator) -> bytes:
    return text.encode(("cp037", "utf-32", "utf-16-le", "utf-7")[int(rng.integers(4))])


def something_else(text: str, rng: np.random.Generator) -> bytes:
    """A packed table, a workbook, a page, an object under the name of a table."""
    made = (gzip.compress(text.encode()), b"PK\3\4" + rng.bytes(300), b"<html><table><tr><td>1</table></html>",
            json.dumps({"rows": text.splitlines()}).encode(), b"", b"\xef\xbb\xbf", b"\n\n\n")  # fmt: skip
    return made[int(rng.integers(len(made)))]


KINDS: tuple[Kind, ...] = (
    a_title, units_below_the_header, a_sum_at_the_end, the_header_again, remarks, rows_twice, one_row_moved,
    two_cells_exchanged, header_missing, rows_of_tabs_among_commas, typographic_quotes, quote_left_open,
    numbers_with_units, dates_for_months, other_signs_for_digits, events_as_codes, events_in_words, negative_or_huge,
    days_for_months, thousands, signs_without_width, lines_in_cells, empty_columns_and_rows, identifiers_as_numbers,
    old_line_ends, other_letters, other_computers, something_else,
)  # fmt: skip
