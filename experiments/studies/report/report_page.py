"""What a report consists of, and how it becomes one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Text:
    """A paragraph of plain text, or a list of them as bullets.

    Args:
        text: The paragraph.
        items: Bullets beneath it.
        kind: `note` for what limits a result, `missing` for what was not run, else an ordinary paragraph.
    """

    text: str = ""
    items: tuple[str, ...] = ()
    kind: str = ""


@dataclass(frozen=True)
class Html:
    """Markup that was rendered from trusted parts, such as a model card."""

    markup: Markup


@dataclass(frozen=True)
class Row:
    """A row of a table: its cells, or one heading over all columns."""

    cells: tuple[str, ...]
    heading: bool = False


@dataclass(frozen=True)
class PageTable:
    """A table as it is read, and its numbers as they were computed.

    Args:
        name: Name of the CSV file without its ending.
        caption: What it shows.
        header: Column titles.
        rows: Rounded cells; the first of each row names it.
        frame: The numbers, not rounded.
        note: What must be known to read it.
    """

    name: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    frame: pd.DataFrame
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure with what it shows in words, for those who do not see it.

    Args:
        name: Short name.
        figure: The figure.
        caption: What stands beneath it.
        alt: What is seen on it, with its numbers.
    """

    name: str
    figure: Figure
    caption: str
    alt: str

    def source(self) -> str:
        """The figure as PNG in a data URI."""
        stream = io.BytesIO()
        self.figure.savefig(stream, format="png", dpi=130, metadata={"Software": None})
        return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


@dataclass(frozen=True)
class Gallery:
    """Figures side by side where the page is wide enough."""

    pictures: tuple[Picture, ...]


Block = Text | Html | PageTable | Picture | Gallery


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Args:
        key: Its anchor.
        title: Its heading.
        blocks: What it holds.
        sections: Its parts.
    """

    key: str
    title: str
    blocks: list[Block] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)

    def walk(self) -> Iterator[Section]:
        """The section and all of its parts, in the order in which they are read."""
        yield self
        for section in self.sections:
            yield from section.walk()


@dataclass(frozen=True)
class Page:
    """The whole report.

    Args:
        title: Its title.
        subtitle: The line beneath it.
        caption: What must be said of every result, once at the top and once at the end.
        short: The same in a few words, beside every table and figure.
        facts: Names and values of the study, at the top.
        summary: The answers, before the table of contents.
        sections: Its sections.
    """

    title: str
    subtitle: str
    caption: str
    short: str
    facts: Mapping[str, str]
    summary: Section
    sections: Sequence[Section]

    def blocks(self) -> Iterator[Block]:
        """All blocks in the order in which they are read; a gallery's figures one by one."""
        for top in self.sections:
            for section in top.walk():
                for block in section.blocks:
                    if isinstance(block, Gallery):
                        yield from block.pictures
                    else:
                        yield block

    def tables(self) -> list[PageTable]:
        """All tables."""
        return [block for block in self.blocks() if isinstance(block, PageTable)]

    def render(self) -> str:
        """The page as HTML: style and pictures inside, no script, nothing fetched."""
        environment = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.globals |= {"kind_of": lambda block: type(block).__name__.lower(), "ident": id}
        style = Markup((TEMPLATES / "report.css").read_text(encoding="utf-8"))
        return environment.get_template("report.html").render(page=self, style=style, numbers=self._numbers())

    def _numbers(self) -> dict[int, int]:
        """Number of every table and every figure, by the identity of the block."""
        counts: dict[type, int] = {PageTable: 0, Picture: 0}
        numbers: dict[int, Any] = {}
        for block in self.blocks():
            if type(block) in counts:
                counts[type(block)] += 1
                numbers[id(block)] = counts[type(block)]
        return numbers
