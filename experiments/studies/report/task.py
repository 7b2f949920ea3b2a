"""What a report says of one task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from datamodules.cohort.cohort import Cohort
from experiments.registry import ENCODERS, TASKS
from experiments.runs.folders import experiment_of
from experiments.studies.curve.curve_table import ZERO_SHOT, Cell
from experiments.studies.report.aggressiveness_risk import TASK as AGGRESSIVENESS
from experiments.studies.report.aggressiveness_risk import aggressiveness_section
from experiments.studies.report.classification_section import class_sections
from experiments.studies.report.doubt_section import doubt_section
from experiments.studies.report.finished_points import PointSeries, cells_of, unfinished
from experiments.studies.report.journal_words import interval, plural
from experiments.studies.report.maps_block import maps_blocks
from experiments.studies.report.pictures import curve_blocks, encoder_forest, subgroup_blocks
from experiments.studies.report.report_page import Block, Section, Text
from experiments.studies.report.result_tables import estimate_of, results_frame, results_table_of
from experiments.studies.report.subgroups import subgroup_table, subgroups_of
from experiments.studies.report.survival_doubt_section import survival_doubt_section
from experiments.studies.report.survival_section import survival_sections


@dataclass(frozen=True)
class Analysis:
    """The numbers of a series.

    Args:
        series: Its points.
        cells: Its metrics with their replicates.
        results: From `results_frame`, at the largest share of the labels.
        subgroups: From `subgroup_table`, of the index encoder.
    """

    series: PointSeries
    cells: Sequence[Cell]
    results: pd.DataFrame
    subgroups: pd.DataFrame

    def subgroup_section(self, note: str) -> Section:
        """The subgroups of the index encoder."""
        blocks = subgroup_blocks(self.series, self.subgroups, note)
        return Section(f"subgroups-{self.series.key}", TASKS[self.series.task].title, list(blocks))


def analyse(series: PointSeries, replicates: int = 2000) -> Analysis:
    """Compute what a report says of a series."""
    cells = cells_of(series, replicates)
    own = series.at(series.fraction)[series.index]
    tables = [own[seed] for seed in series.seeds(series.fraction)]
    parts = subgroup_table(tables, subgroups_of(series.cohort), replicates=replicates)
    return Analysis(series, cells, results_frame(cells, series.fraction), parts)


def task_section(analyses: list[Analysis], note: str, missing: Text) -> Section:
    """All series of a task: results and curve of each, the figures of the first."""
    first = analyses[0].series
    title = TASKS[first.task].title
    section = Section(f"task-{first.task}", title, [Text(TASKS[first.task].definition), missing])
    for number, analysis in enumerate(analyses):
        series = analysis.series
        blocks: list[Block] = [
            results_table_of(series, analysis.results),
            encoder_forest(series, analysis.results, note),
        ]
        blocks += [Text(remark, kind="missing") for remark in series.remarks]
        if number:
            blocks.append(
                Text("Its figures of single patients are left out; those of the first series are shown.", kind="note")
            )
        heading = f"{title}: {series.title.lower()}, {series.fraction:.0%} of the labels"
        curve = Section(
            f"curve-{series.key}", "Data efficiency", list(curve_blocks(series, list(analysis.cells), note))
        )
        part = Section(f"results-{series.key}", heading, blocks, [curve])
        if not number:
            survival = series.metric.survival
            if series.task == AGGRESSIVENESS:
                part.sections.append(aggressiveness_section(series, note))
            part.sections.extend(
                survival_sections(series, analysis.results, note) if survival else class_sections(series, note)
            )
            doubt = (survival_doubt_section if survival else doubt_section)(series, note)
            doubt.blocks.extend(maps_blocks(series))
            part.sections.append(doubt)
        section.sections.append(part)
    return section


def missing_words(runs: Path, cohort: Cohort, task: str, analyses: list[Analysis]) -> Text:
    """What of a task was not run, in one line, and its zero-shot classification in another."""
    there = {name for analysis in analyses for name in analysis.series.encoders}
    absent = [name for name in ENCODERS if name not in there]
    started = unfinished(runs, cohort, task)
    lines = [f"Not run: {', '.join(absent)}."] if absent else ["All encoders were run."]
    if started:
        lines.append(f"{plural(started, 'point')} started and not finished, left out.")
    lines.append(zero_shot_words(runs, cohort, task, analyses[0].series.metric.survival))
    return Text(items=tuple(lines))


def zero_shot_words(runs: Path, cohort: Cohort, task: str, survival: bool) -> str:
    """Zero-shot classification by the mean prompt in the pooled groups, beside TF-IDF; or that it was not run."""
    if survival:
        return "Zero-shot: not defined for survival."
    encoder, strategy = ZERO_SHOT
    found = sorted((runs / experiment_of(cohort, task)).glob(f"{encoder}-zeroshot-s*/results.csv"))
    if not found:
        return "Zero-shot: not run (make zeroshot)."
    table = pd.read_csv(found[0])
    parts = []
    for group, rows in table[table["kind"] != "external"].groupby("group", sort=False):
        said = [
            f"{row['strategy']} {interval(estimate_of(row, 'auroc'))}"
            for row in rows[rows["strategy"].isin([strategy, "TF-IDF of reports"])].to_dict("records")
        ]
        parts.append(f"{group}, n {rows['n'].iloc[0]}: {', '.join(said)}")
    return f"Zero-shot AUC without labels, {encoder}: {'; '.join(parts)}."
