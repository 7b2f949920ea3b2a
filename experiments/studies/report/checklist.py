"""The TRIPOD+AI checklist: which item this report answers, where, and which the authors must fill."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import yaml
from markupsafe import Markup

from experiments.studies.report.report_page import Html, Section, Text

ITEMS = Path(__file__).parent / "tripod_ai.yaml"
_STATUS = {"here": "Answered here", "part": "Begun here, authors complete", "authors": "Authors"}


def checklist(anchors: dict[str, str]) -> pd.DataFrame:
    """The items of TRIPOD+AI (Collins et al., BMJ 2024;385:e078378) with where a report answers them.

    Args:
        anchors: Title of every section that the report has, by its anchor.

    Returns:
        Columns item, topic, asks, status (here, part, authors), sections (their anchors, separated by blanks), note. An
        item all of whose sections are missing is the authors'.
    """
    rows = []
    for entry in yaml.safe_load(ITEMS.read_text(encoding="utf-8")):
        wanted = entry.get("sections", [])
        there = [name for name in wanted if name in anchors]
        status = entry["status"] if there or not wanted else "authors"
        note = entry.get("note", "") if there or not wanted else "This report has no such section."
        shared = {key: str(entry[key]) for key in ("item", "topic", "asks")}
        rows.append({**shared, "status": status, "sections": " ".join(there), "note": note})
    return pd.DataFrame(rows)


def checklist_section(anchors: dict[str, str]) -> tuple[Section, pd.DataFrame]:
    """The checklist as a section whose entries lead to the sections, and as a table for its CSV."""
    found = checklist(anchors)
    counts = found["status"].value_counts()
    summary = "; ".join(f"{title.lower()}: {int(counts.get(key, 0))}" for key, title in _STATUS.items())
    text = (
        "TRIPOD+AI (Collins et al., BMJ 2024;385:e078378) has 27 main items. In short words of our own, which are no "
        f"substitute for the statement and its explanation. Of {len(found)} items and sub-items, {summary}."
    )
    return Section("tripod", "TRIPOD+AI checklist", [Text(text), Html(_markup(found, anchors))]), found


def _markup(found: pd.DataFrame, anchors: dict[str, str]) -> Markup:
    head = "".join(f'<th scope="col">{title}</th>' for title in ("Item", "Topic", "What it asks for", "State", "Where"))
    rows = [_row(entry, anchors) for entry in found.to_dict("records")]
    caption = Markup(
        '<caption id="tripod-caption">TRIPOD+AI items. <span class="data">CSV: tables/tripod.csv</span></caption>'
    )
    opened = Markup('<div class="scroll" role="region" tabindex="0" aria-labelledby="tripod-caption"><table>')
    return opened + caption + Markup(f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>")


def _row(entry: dict, anchors: dict[str, str]) -> Markup:
    links = Markup(", ").join(
        Markup('<a href="#{}">{}</a>').format(name, anchors[name]) for name in str(entry["sections"]).split()
    )
    where = Markup(". ").join(part for part in (links, entry["note"]) if part)
    row = Markup('<tr><th scope="row">{}</th>' + '<td class="text">{}</td>' * 4 + "</tr>")
    return row.format(entry["item"], entry["topic"], entry["asks"], _STATUS[entry["status"]], where)


def anchors_of(sections: Sequence[Section]) -> dict[str, str]:
    """Title of every section, by its anchor."""
    return {part.key: part.title for section in sections for part in section.walk()}
