"""`make score-reports`: the reports of all systems against the real ones, on facts and on words."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.identity import DataIdentity
from datamodules.csv_files import write_csv
from datamodules.errors import DataError
from datamodules.reports.reader.rules import RuleExtractor
from experiments.generation.generate import SETTINGS
from experiments.generation.records import GENERATED, read_generated
from experiments.generation.score_figure import scores_figure
from experiments.generation.system_scores import (
    MEASURES,
    attribute_table,
    differences_table,
    scored_groups,
    scores_table,
)
from experiments.generation.systems import SYSTEMS, references
from experiments.registry import choose
from experiments.runs.console import say
from experiments.runs.folders import experiment_of, system_folder
from experiments.runs.pretrained import pretrained_from
from experiments.runs.run_data import bind_results
from experiments.runs.tracking import cohort_tags, log_results, make_logger
from experiments.scores.results_table import caption, marked, with_interval

TABLES = ("results.csv", "differences.csv", "attributes.csv", "scores.png")


def score_reports(
    systems: list[str] | None = None,
    data: Path = Path("data/demo"),
    pretrained: str = "s42",
    runs: Path = Path("runs"),
    reference: str = "planned",
    replicates: int = 1000,
) -> int:
    """Score what `make generate` wrote, in every centre and all external ones together.

    Facts are those that the attribute rules read out of both reports. Only kidneys that all systems wrote of are
    scored; intervals and paired differences are over patients, p values corrected by Holm.

    Args:
        systems: Systems to compare; all that have reports by default.
        data: Folder of the cohort.
        pretrained: Pretraining of the writer, as `make generate` was told: `s42`, or with its TAG `s42-mytag`.
        runs: Folder of all runs.
        reference: System that the others are compared with; the first where it has no reports.
        replicates: Bootstrap replicates.
    """
    choose("REFERENCE", reference, dict(SYSTEMS))
    origin, cohort = pretrained_from(pretrained), Cohort.load(data)
    seed, tag = origin.seed, origin.tag
    names = _with_reports(cohort, systems, seed, runs, tag)
    generated = pd.concat(
        [read_generated(system_folder(runs, cohort, name, seed, tag) / GENERATED) for name in names], ignore_index=True
    )
    extractor = RuleExtractor()
    kidneys = generated.drop_duplicates(["patient_id", "study_id", "side"])
    base = reference if reference in names else names[0]
    results, differences, attributes = [], [], []
    for group, scored in scored_groups(generated, references(cohort, kidneys), extractor, extractor.schema):
        results.append(scores_table(scored, replicates).assign(group=group))
        differences.append(differences_table(scored, base, replicates).assign(group=group))
        attributes.append(attribute_table(scored).assign(group=group))
    tables = [pd.concat(part, ignore_index=True) for part in (results, differences, attributes)]
    folder = system_folder(runs, cohort, "scores", seed, tag)
    bind_results(folder / TABLES[0], _same_data([system_folder(runs, cohort, name, seed, tag) for name in names]))
    for name, table in zip(TABLES, tables, strict=False):
        write_csv(folder / name, table)
    titles = {name: SYSTEMS[name].title for name in names}
    note = f"{caption(cohort.info)} Facts as rules read them out of both reports; 95 % intervals over patients."
    scores_figure(folder / TABLES[3], tables[0], titles, note)
    _log(cohort, runs, folder, seed, tag, tables[0], note)
    say(f"{format_scores(tables[0], titles)}\n{note}\nFolder: {folder.as_posix()}")
    return 0


def _same_data(folders: list[Path]) -> list[DataIdentity]:
    """The data that all systems wrote on.

    Raises:
        DataError: if they wrote on different ones.
    """
    found = [
        [DataIdentity.read(path) for path in sorted(folder.glob(f"{Path(GENERATED).stem}-data*.parquet"))]
        for folder in folders
    ]
    for folder, own in zip(folders, found, strict=True):
        if [one.sha256 for one in own] != [one.sha256 for one in found[0]]:
            raise DataError(
                f"The reports in {folder.name} and {folders[0].name} were written on other data; delete one of the "
                "folders and run `make generate` again."
            )
    return found[0]


def _with_reports(cohort: Cohort, wanted: list[str] | None, seed: int, runs: Path, tag: str) -> list[str]:
    for name in wanted or ():
        choose("SYSTEM", name, dict(SYSTEMS))
    found = [name for name in SYSTEMS if (system_folder(runs, cohort, name, seed, tag) / SETTINGS).is_file()]
    missing = [name for name in wanted or () if name not in found]
    if missing or not found:
        raise DataError(
            f"Cohort {cohort.info.name} has no reports by {', '.join(missing) or 'any system'}; run `make generate "
            f"SYSTEMS={','.join(missing) or 'planned'}` first."
        )
    return list(wanted) if wanted else found


def format_scores(table: pd.DataFrame, titles: dict[str, str]) -> str:
    """The last group, which pools most patients, as fixed-width text: a line a measure, a column a system."""
    group = table["group"].iloc[-1]
    rows = table[table["group"] == group]
    counted = rows.iloc[0]
    lines = [f"{group}, {counted['n']} patients, {counted['kidneys']} kidneys; value (95 % interval)"]
    lines.append(f"{'':36s}" + "".join(f"{name:>24s}" for name in titles))
    for measure, entry in MEASURES.items():
        cells = []
        for name in titles:
            row = rows[(rows["system"] == name) & (rows["measure"] == measure)]
            text = "-" if row.empty or row["value"].isna().all() else _cell(row.iloc[0])
            cells.append(f"{text:>24s}")
        unit = f", {entry.unit}" if entry.unit else ""
        lines.append(f"{entry.title + unit:36s}" + "".join(cells))
    return "\n".join([*lines, *marked(rows)])


def _cell(row: pd.Series) -> str:
    return with_interval(row["value"], row["low"], row["high"], row["interval"])


def _log(cohort: Cohort, runs: Path, folder: Path, seed: int, tag: str, table: pd.DataFrame, note: str) -> None:
    tags = {**cohort_tags(cohort), "mode": "report generation", "seed": str(seed)}
    logger = make_logger(runs, folder, experiment_of(cohort, "reports"), folder.name, tags)
    metrics = {
        f"{row['measure']}/{row['system']}/{row['group']}".replace(" ", "_"): float(row["value"])
        for row in table.dropna(subset=["value"]).to_dict("records")
    }
    log_results(logger, metrics, note, [folder / name for name in TABLES])
