"""Model cards of the encoders of a report."""

from __future__ import annotations

import re

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from datamodules.cohort.cohort import Cohort
from experiments.registry import ENCODERS, EncoderEntry
from experiments.runs.folders import ENCODER_FOLDER, experiment_of
from experiments.studies.report.finished_points import PointSeries
from experiments.studies.report.report_page import Html, Section, Text

CARD = "README.md"
_LEVEL = 4


def card_html(text: str) -> Markup:
    """A card in Markdown as markup that can stand in the report: no raw HTML, no picture, no link, small headings.

    Args:
        text: The card; a front matter is left out.
    """
    body = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    parser = MarkdownIt("commonmark", {"html": False}).disable(["image", "link", "autolink"])
    tokens = [_smaller(token) for token in parser.parse(body)]
    return Markup('<div class="card">{}</div>').format(Markup(parser.renderer.render(tokens, parser.options, {})))


def _smaller(token: Token) -> Token:
    if token.type in ("heading_open", "heading_close"):
        token.tag = f"h{min(6, _LEVEL + int(token.tag[1]) - 1)}"
    return token


def card_section(cohort: Cohort, found: list[PointSeries]) -> Section:
    """The card that the export of each encoder wrote; of one without an export what the registry says."""
    section = Section("cards", "Model cards")
    names = [name for name in ENCODERS if any(name in series.encoders for series in found)]
    for name in names:
        entry = ENCODERS[name]
        part = Section(f"card-{name.replace('_', '-')}", entry.title, [_facts(entry)])
        card = None if entry.stage is None else _card(cohort, found, name)
        if card:
            part.blocks.append(Html(card_html(card)))
            if cohort.info.evaluation == "folds":
                part.blocks.append(
                    Text("Every fold has an encoder of its own; this is the card of the first.", kind="note")
                )
        elif entry.stage is not None:
            text = f"The card of stage {entry.stage} is not in the folder of runs, where its export would have left it."
            part.blocks.append(Text(text, kind="missing"))
        section.sections.append(part)
    return section


def _facts(entry: EncoderEntry) -> Text:
    items = [f"Weights: {entry.weights}.", f"Licence: {entry.licence}.", f"To cite: {entry.citation}."]
    if entry.columns:
        items.append(f"Reads: {', '.join(entry.columns)}.")
    return Text(items=tuple(items))


def _card(cohort: Cohort, found: list[PointSeries], name: str) -> str | None:
    """The card of the first seed, and fold, that the encoder's stage was run with."""
    runs = next(series for series in found if name in series.encoders).runs
    folder, stage = runs / experiment_of(cohort, "pretrain"), ENCODERS[name].stage
    cards = [path for part in ("", "fold*/") for path in folder.glob(f"{stage}-s*/{part}{ENCODER_FOLDER}/{CARD}")]
    return min(cards).read_text(encoding="utf-8") if cards else None
