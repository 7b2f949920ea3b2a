"""`make review`: rate generated reports in the browser of this machine, and sum the ratings up."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from datamodules.cohort.cohort import Cohort
from datamodules.csv_files import write_csv
from datamodules.errors import DataError
from datamodules.files import read_json_mapping
from datamodules.volumes.shards import VolumeSet
from experiments.cohorts.cohort_commands import profile_contract
from experiments.generation.review.cases import read_cases
from experiments.generation.review.ratings import read_ratings
from experiments.generation.review.review import RATINGS, SETTINGS, Review
from experiments.generation.review.review_page import create_app
from experiments.generation.review.review_summary import (
    agreement_table,
    finished_ratings,
    format_summary,
    summary_table,
)
from experiments.generation.review.scans import Scans
from experiments.generation.systems import SYSTEMS
from experiments.runs.console import say
from experiments.runs.folders import system_folder
from experiments.runs.local_pages import HOST, serve, serve_until_stopped
from experiments.runs.locks import lease, taken
from experiments.runs.pretrained import pretrained_from
from experiments.scores.results_table import caption

SUMMARY, AGREEMENT, _CLAIM = "summary.csv", "agreement.csv", ".serving"


def review(
    systems: list[str] | None = None,
    data: Path = Path("data/demo"),
    pretrained: str = "s42",
    runs: Path = Path("runs"),
    profile: str = "",
    patients: int | None = None,
    order_seed: int = 0,
    port: int = 5000,
    out: Path | None = None,
    export: Literal["summary"] | None = None,
) -> int:
    """Open a page of this machine on which radiologists rate the reports of `make generate`, systems blinded.

    Each kidney is shown with its scan, its reference report and the generated ones under letters that are drawn anew
    for every kidney and reviewer. The facts that rules find in the reports are marked when all of a kidney's are rated.
    Every answer is on the disk at once, in `ratings.csv`, and a review goes on at the first kidney that is not
    finished. Stop it with Ctrl-C; the means of every system are printed when all reviewers are through.

    Args:
        systems: Systems to rate; all that have reports by default.
        data: Folder of the cohort.
        pretrained: Pretraining of the writer, as `make generate` was told: `s42`, or with its TAG `s42-mytag`.
        runs: Folder of all runs.
        profile: Profile of the volume set; needed only where the cohort holds sets of several profiles.
        patients: Largest number of patients, drawn by `order_seed`; all by default.
        order_seed: Seed of the order of kidneys and systems, of all reviewers.
        port: Port of the page.
        out: Folder of ratings and key; `review` beside the reports by default.
        export: `summary` prints and writes the means of every system, and opens no page.
    """
    origin, cohort = pretrained_from(pretrained), Cohort.load(data)
    seed, tag = origin.seed, origin.tag
    folder = out or system_folder(runs, cohort, "review", seed, tag)
    if export is not None:
        _summarise(cohort, folder)
        return 0
    cases = read_cases(cohort, runs, systems, seed, tag, patients, order_seed)
    scans = Scans(VolumeSet.find(data, "kidney", profile_contract(profile) if profile else None))
    claim = lease(folder / _CLAIM)
    if not taken(claim):
        raise DataError(f"Another process serves the review in {folder.name} already; stop it, or name another --out.")
    try:
        work = Review(cases, order_seed, folder, caption(cohort.info))
        server = serve(create_app(work, scans), port)
        serve_until_stopped(
            server,
            f"{len(cases)} kidneys, {len(work.systems)} systems. {work.note}\nOpen http://{HOST}:{server.port}/ in "
            f"the browser of this machine; stop with Ctrl-C. Folder: {folder.as_posix()}",
        )
    finally:
        claim.release()
    _end(work, cohort)
    return 0


def _end(work: Review, cohort: Cohort) -> None:
    """Say how far everyone is; the means only where nobody is left who should not know them."""
    done = {name: sum(work.progress(name)) for name in sorted({row.reviewer for row in work.ratings.rows()})}
    for name, count in done.items():
        say(f"Reviewer {name}: {count} of {len(work.cases)} kidneys rated.")
    if done and min(done.values()) == len(work.cases):
        _summarise(cohort, work.folder)
    elif done:
        say("The means of the systems, not for who still rates: ARGS=--export=summary.")


def _summarise(cohort: Cohort, folder: Path) -> None:
    """Write and print what the ratings say of each system."""
    absent = [name for name in (RATINGS, SETTINGS) if not (folder / name).is_file()]
    if absent:
        raise DataError(f"{folder.name} has no {absent[0]}; rate reports with `make review` first.")
    systems = read_json_mapping(folder / SETTINGS, "systems")["systems"]
    everything = read_ratings(folder / RATINGS)
    ratings = finished_ratings(everything, systems)
    table, agreement = summary_table(ratings), agreement_table(ratings)
    for name, frame in ((SUMMARY, table), (AGREEMENT, agreement)):
        if len(frame):
            write_csv(folder / name, frame)
    left = len(everything) - len(ratings)
    more = f" {left} ratings of kidneys that are not finished are left out." if left else ""
    titles = {name: SYSTEMS[name].title for name in systems}
    say(f"{format_summary(table, agreement, titles)}\n{caption(cohort.info)}{more} Folder: {folder.as_posix()}")
