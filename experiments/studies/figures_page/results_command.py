"""`make results`: the figures of the results page and of the README, read from the runs."""

from __future__ import annotations

from pathlib import Path

from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from datamodules.files import replacing
from experiments.runs.console import say
from experiments.studies.figures_page.numbers import RunFigures
from experiments.studies.figures_page.places import Filled, fill, read_figures

PAGES = [Path("docs/RESULTS.md"), Path("README.md")]
FIGURES = Path("docs/results.yaml")


def results(
    data: list[Path] | None = None,
    runs: Path = Path("runs"),
    pages: list[Path] | None = None,
    figures: Path = FIGURES,
    partial: bool = False,
) -> int:
    """Write the figures of pages from the tables of the runs, so that none is typed by hand.

    A page has named places, `<!--= name argument -->figure<!--/-->`, and a file says of every name which table, row and
    column it is. A table of other patients, splits, volumes or reports than the cohort's is refused. Where runs are
    missing nothing is written, and each is named.

    Args:
        data: Folders of the cohorts; data/demo by default.
        runs: Folder of all runs.
        pages: Markdown files; docs/RESULTS.md and README.md by default.
        figures: Definitions of the figures.
        partial: Write all the same, with "not run" in the places of what is missing.
    """
    cohorts = [Cohort.load(folder) for folder in data or [Path("data/demo")]]
    by_name = {cohort.info.name: cohort for cohort in cohorts}
    if len(by_name) < len(cohorts):
        raise DataError("Two of the cohorts have one name; the places of a page tell cohorts apart by it.")
    known, reader = read_figures(figures), RunFigures(runs, by_name)
    files = pages or PAGES
    filled = {path: fill(path.read_text(encoding="utf-8"), known, reader.show, path.name) for path in files}
    missing = {place: why for page in filled.values() for place, why in page.missing.items()}
    for place, why in missing.items():
        say(f"{place}: {why}.")
    if missing and not partial:
        raise DataError(
            f"{len(missing)} figures have no run (above), so that nothing was written; run what is missing, or give "
            "PARTIAL=true to have these places read 'not run'."
        )
    for path, page in filled.items():
        _write(path, page)
    return 0


def _write(path: Path, page: Filled) -> None:
    changed = path.read_text(encoding="utf-8") != page.text
    if changed:
        with replacing(path) as temporary:
            temporary.write_text(page.text, encoding="utf-8")
    say(f"{path.as_posix()}: {page.places} figures, {len(page.missing)} not run{'' if changed else ', unchanged'}.")
