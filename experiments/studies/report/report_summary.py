"""What a reader wants first: the answer of every task in a sentence, with its interval and n."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.registry import ENCODERS, TASKS
from experiments.studies.compare import REPORTED
from experiments.studies.curve.curve_table import reached_table
from experiments.studies.report.journal_words import capital, interval, p_value, signed
from experiments.studies.report.pictures import reached_words
from experiments.studies.report.report_page import Section, Text
from experiments.studies.report.result_tables import estimate_of
from experiments.studies.report.task import Analysis


def summary_section(analyses: Mapping[str, list[Analysis]]) -> Section:
    """The first series of every task: its index encoder against the best baseline, in the patients that count most.

    These are the pooled external patients, else the pooled folds, else the internal test.

    Args:
        analyses: The series of every task.
    """
    if not analyses:
        return Section("summary", "Summary", [Text("No task has a finished run.", kind="missing")])
    items = [sentence for own in analyses.values() for sentence in task_sentences(own[0])]
    how = (
        "The encoder is chosen by its place in the registry, the baseline by its result, which favours baselines. "
        "Methods, all encoders and all groups stand below."
    )
    return Section("summary", "Summary", [Text(items=tuple(items)), Text(how, kind="note")])


def task_sentences(analysis: Analysis) -> list[str]:
    """The answer of a task, and the smallest share of the labels that is enough, where there is one."""
    series, metric = analysis.series, analysis.series.metric
    frame = analysis.results
    own = frame[frame["kind"].isin(REPORTED) & frame["endpoint"].isin(["", series.label.endpoint])]
    group = list(dict.fromkeys(own["group"]))[-1]  # the internal test comes first
    rows = own[own["group"] == group].set_index("encoder")
    row: dict[Any, Any] = rows.loc[series.index].to_dict()
    said = (
        f"{TASKS[series.task].title}, {group}: {ENCODERS[series.index].title} reaches {_article(metric.title)} "
        f"{metric.title} of {interval(estimate_of(row, metric.name))}, n {row['n']}, {row[metric.count]} "
        f"{metric.count_title}"
    )
    base = row["baseline"]
    if base and base != series.index:
        best: dict[Any, Any] = rows.loc[base].to_dict()
        said += (
            f"; the best baseline, {_small(ENCODERS[base].title)}, {interval(estimate_of(best, metric.name))}; "
            f"difference {signed(estimate_of(row, 'difference'))}"
        )
        said += "" if np.isnan(row["p_holm"]) else f", p {_with_sign(p_value(row['p_holm']))} (Holm)"
    else:
        said += "; no baseline was run beside it" if not base else "; it is the best baseline itself"
    said += f". {series.title}, {series.fraction:.0%} of the labels."
    cells = [cell for cell in analysis.cells if np.isfinite(cell.pooled.estimate.value) and cell.group == group]
    reached = reached_table(series.curve(), cells) if len(series.fractions) > 1 else None
    if reached is None or reached.empty:
        return [said]
    return [said, *reached_words(reached[reached["encoder"] == series.index])]


def _article(word: str) -> str:
    return "an" if word.startswith("A") else "a"


def _small(title: str) -> str:
    """A title within a sentence; a name of several capitals stays."""
    return title if not title[1:2].islower() else capital(title)[:1].lower() + title[1:]


def _with_sign(p: str) -> str:
    return p if p[0] in "<>" else f"= {p}"
