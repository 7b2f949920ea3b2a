"""`make report`: the report of a study, read from its finished runs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pandas as pd

from datamodules.cohort.cohort import Cohort
from datamodules.csv_files import write_csv
from datamodules.errors import DataError
from datamodules.files import remove_leftovers, settle_tree
from experiments.registry import TASKS, choose
from experiments.runs.console import say
from experiments.runs.folders import experiment_of
from experiments.runs.tracking import git_commit
from experiments.scores.results_table import caption, short_caption
from experiments.studies.report.checklist import anchors_of, checklist_section
from experiments.studies.report.encoder_cards import card_section
from experiments.studies.report.finished_points import PointSeries, check_tasks, series_of
from experiments.studies.report.flow import eligibility_table, flow_of, flow_picture, flow_table
from experiments.studies.report.methods import limits_section, methods_section
from experiments.studies.report.report_page import Block, Page, Section, Text
from experiments.studies.report.report_summary import summary_section
from experiments.studies.report.table_one import MOST_COLUMNS, table_one
from experiments.studies.report.task import Analysis, analyse, missing_words, task_section

REPORT = "report.html"


def report(
    data: Path = Path("data/demo"),
    runs: Path = Path("runs"),
    tasks: list[str] | None = None,
    out: Path | None = None,
) -> int:
    """Write the report of a study: one HTML page that needs nothing else, and its tables as CSV.

    Finished points of `make finetune` and `make curve` are read; nothing is trained. What was not run is named. A
    report that is there already is replaced as a whole, when the new one is complete.

    Args:
        data: Folder of the cohort.
        runs: Folder of all runs.
        tasks: Downstream tasks, in the order of the report; all by default.
        out: Folder of the report; `report` beside the cohort's runs by default.
    """
    names = [choose("TASKS", name, dict(TASKS)) for name in tasks or list(TASKS)]
    if len(set(names)) != len(names):
        raise DataError(f"TASKS={', '.join(names)} was asked for; expected each task once.")
    cohort = Cohort.load(data)
    found = {name: series_of(runs, cohort, name) for name in names}
    check_tasks(found, cohort)
    folder = out or runs / experiment_of(cohort, "report")
    _check_free(folder)
    analyses: dict[str, list[Analysis]] = {}
    for name, all_series in found.items():
        for series in all_series:
            say(f"{TASKS[name].title}: {series.title.lower()}, {len(series.points)} points")
            analyses.setdefault(name, []).append(analyse(series))
    page, extra = build_page(cohort, runs, found, analyses)
    with replacing_folder(folder) as temporary:
        (temporary / REPORT).write_text(page.render(), encoding="utf-8")
        (temporary / "tables").mkdir()
        for name, frame in {**{table.name: table.frame for table in page.tables()}, **extra}.items():
            write_csv(temporary / "tables" / f"{name}.csv", frame)
    say(f"{caption(cohort.info)}\nReport: {(folder / REPORT).as_posix()}")
    return 0


def build_page(
    cohort: Cohort, runs: Path, found: dict[str, list[PointSeries]], analyses: dict[str, list[Analysis]]
) -> tuple[Page, dict[str, pd.DataFrame]]:
    """The page, and tables that stand in its CSV files beside those of the page."""
    note = short_caption(cohort.info)
    results = Section("results", "Results")
    absent = [TASKS[name].title for name, series in found.items() if not series]
    if absent:
        results.blocks.append(Text(f"No finished run: {', '.join(absent)}.", kind="missing"))
    for name, own in analyses.items():
        results.sections.append(task_section(own, note, missing_words(runs, cohort, name, own)))
    flat = [series for own in found.values() for series in own]
    sections = [
        _cohort_section(cohort, list(found), note),
        methods_section(cohort, flat),
        results,
        _subgroup_section(analyses, note),
        limits_section(cohort, flat),
        card_section(cohort, flat),
    ]
    checked, items = checklist_section(anchors_of(sections))
    facts = {
        "Cohort": cohort.info.name,
        "Patients": f"{len(cohort['patients']):,}",
        "Centres": f"{cohort['patients']['center'].nunique()}",
        "Tasks with results": str(len(analyses)),
        "Finished points": str(sum(len(series.points) for series in flat)),
        "Evaluation": "roles of centres" if cohort.info.evaluation == "roles" else "folds of whole sites",
        "Split": cohort.split_hash,
        "Code": git_commit()[:12],
        "Made": f"{datetime.now():%Y-%m-%d}",
    }
    title = f"Study report: cohort {cohort.info.name}"
    subtitle = f"{cohort.info.source} Tasks: {', '.join(TASKS[name].title for name in analyses)}."
    summary = summary_section(analyses)
    return Page(title, subtitle, caption(cohort.info), note, facts, summary, [*sections, checked]), {"tripod": items}


def _cohort_section(cohort: Cohort, tasks: list[str], note: str) -> Section:
    flow = flow_of(cohort)
    tables: list[Block] = list(table_one(cohort))
    count = cohort["patients"]["center"].nunique()
    if count > MOST_COLUMNS:
        tables.append(Text(f"Not shown by centre: {count} centres are too many for a table.", kind="missing"))
    return Section(
        "cohort",
        "Cohort",
        [Text(cohort.info.source)],
        [
            Section("flow", "Flow of patients", [flow_picture(cohort, flow, note), flow_table(flow)]),
            Section("characteristics", "Characteristics", tables),
            Section("eligibility", "Patients of each task", [eligibility_table(cohort, tasks)]),
        ],
    )


def _subgroup_section(analyses: dict[str, list[Analysis]], note: str) -> Section:
    section = Section(
        "subgroups", "Subgroups", [Text("Of the first series of every task, at its largest share of labels.")]
    )
    section.sections.extend(own[0].subgroup_section(note) for own in analyses.values())
    return section


def _check_free(folder: Path) -> None:
    """Refuse to replace a folder that is no report."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / REPORT).is_file():
        raise DataError(
            f"{folder.name} holds files and no {REPORT}; name another folder, since a report replaces its folder."
        )


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside `folder`, which takes its place as a whole when the block ends without an error.

    An older folder stays until the new one is complete, and is then removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder.parent)
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".part"))
    try:
        (work / "new").mkdir()
        yield work / "new"
        settle_tree(work / "new")
        if folder.exists():
            folder.rename(work / "old")
        try:
            (work / "new").rename(folder)
        except OSError:
            if (work / "old").exists():
                (work / "old").rename(folder)
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
