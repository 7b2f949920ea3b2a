"""`make cohort`, `make import`, `make reports` and `make data-check`: from scans, or nothing, to a checked cohort."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from rich.console import Console
from rich.table import Table

from datamodules.cohort.checked_tables import stamp_tables
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.table_checks import check_table, conform
from datamodules.cohort.tables import TABLES
from datamodules.errors import DataError, Finding, raise_failures
from datamodules.files import read_json_mapping, write_json, write_parquet
from datamodules.importers.builder import ImportAccount, build_cohort, refresh_cohort
from datamodules.importers.records import ReportsProgress, Source
from datamodules.importers.redacted import cleaned, redacting
from datamodules.quality.cohort_checks import LOCAL_PATHS, check_cohort, check_reports
from datamodules.reports.measured import geometry_reports
from datamodules.volumes.contract import PreprocessingContract
from experiments.cohorts.origins import Origin, recall, remember
from experiments.cohorts.sources import make_source, recognise
from experiments.cohorts.trivial_predictors import write_predictors
from experiments.cohorts.withdrawal import drop_caches, uses
from experiments.registry import PROFILES, axis_file, choose
from experiments.runs.console import progress_bar, say
from experiments.statistics.support import mark

_USES_SHOWN = 20


def profile_contract(profile: str) -> PreprocessingContract:
    """The preprocessing contract of a profile.

    Raises:
        DataError: if the profile is unknown.
    """
    path = axis_file("profile", choose("PROFILE", profile, dict(PROFILES)))
    return PreprocessingContract(**yaml.safe_load(path.read_text(encoding="utf-8"))["contract"])


def cohort(
    out: Path = Path("data/demo"),
    patients: int = 1000,
    seed: int = 42,
    profile: str = "demo",
    workers: int | None = None,
    pretraining: int = 680,
    external: int = 0,
) -> int:
    """Draw the phantom cohort: multi-centre renal-mass patients with scans, reports, labels and outcomes.

    Again with another profile it adds that profile's volume set.

    Args:
        out: Folder of the cohort.
        patients: Number of patients.
        seed: Seed; the same seed gives the same patients on any number of processes.
        profile: Profile whose preprocessing contract the volumes follow.
        workers: Processes; all cores by default.
        pretraining: Further patients of the pretraining centres, who have a scan and a report.
        external: Further patients of the external centres; all others stay as they are without them. With 630, 900
            external patients are tested, some 200 of them with a benign lesion.
    """
    options = {"patients": patients, "seed": seed, "pretraining": pretraining, "external": external}
    code = _build("demo", None, options, out, profile, workers)
    _print_predictors(write_predictors(out, profile_contract(profile)))
    return code


def import_cohort(
    source: Path,
    out: Path,
    kind: str = "auto",
    options: dict[str, Any] | None = None,
    profile: str = "demo",
    workers: int | None = None,
    redact: bool = False,
    runs: Path = Path("runs"),
) -> int:
    """Import scans as a cohort; every patient is accounted for in `import.parquet`.

    Again after the source changed, only what changed is read: new patients, new studies, other masks. Tables are made
    anew, and who is no longer there is removed with all that was cached of them; runs that used them are named. Again
    with another profile it adds that profile's volume set.

    Args:
        source: Folder, manifest, or YAML file that names several sources.
        out: Folder of the cohort.
        kind: Kind of source; recognised from the path by default.
        options: Options of that kind, for example `{sites: sites.csv}` or `{plan: {name: north}}`.
        profile: Profile whose preprocessing contract the volumes follow.
        workers: Processes; all cores by default.
        redact: Take names, dates, numbers, pathology and outcome out of the reports before anything is written.
        runs: Folder of all runs, where caches of patients who left are removed and runs that used them are looked for.
    """
    name = recognise(source) if kind == "auto" else kind
    return _build(name, source, options or {}, out, profile, workers, redact, runs)


def refresh(
    data: Path,
    source: Path | None = None,
    kind: str = "auto",
    options: dict[str, Any] | None = None,
    redact: bool = False,
    runs: Path = Path("runs"),
) -> int:
    """Make the tables of an imported cohort anew from those of its source; volumes stay and no scan is read.

    Args:
        data: Folder of the cohort.
        source: What it was imported from; remembered by default.
        kind: Kind of source; as it was imported, or recognised from the path.
        options: Options of that kind.
        redact: Clean the reports, as the import did; a cohort that was imported so is not refreshed without.
        runs: Folder of all runs, where caches of patients who left are removed and runs that used them are looked for.
    """
    origin = recall(data) if source is None else Origin(kind, str(source), options or {})
    if origin is None or origin.path is None:
        raise DataError(
            f"What {data.name} was imported from is not remembered here; name it with SOURCE= and OPTIONS=."
        )
    name = recognise(Path(origin.path)) if origin.kind == "auto" else origin.kind
    made = make_source(name, Path(origin.path), data, origin.options)
    sets = sorted((data / "volumes").glob("*/contract.json"))
    if not sets:
        raise DataError(f"{data.name} holds no finished volume set; run `make import` first.")
    built, report = refresh_cohort(
        redacting(made) if redact else made, data, PreprocessingContract.from_dict(read_json_mapping(sets[0]))
    )
    remember(data, Origin(name, origin.path, origin.options))
    _print_report(Console(), built, report, made, runs)
    return 0 if not report.counts["failed"] else 2


def _build(
    kind: str,
    path: Path | None,
    options: dict[str, Any],
    out: Path,
    profile: str,
    workers: int | None,
    redact: bool = False,
    runs: Path = Path("runs"),
) -> int:
    contract = profile_contract(profile)
    source = make_source(kind, path, out, options)
    console = Console()
    with progress_bar(console) as bar:
        if isinstance(source, ReportsProgress):  # reading the headers of many files comes before any patient
            headers = bar.add_task(f"{source.info.name}: files", total=None)
            source.progress = lambda done, total: bar.update(headers, completed=done, total=total)
        task = bar.add_task(f"{source.info.name}: patients", total=None)
        built, report = build_cohort(
            redacting(source) if redact else source,
            out,
            contract,
            workers,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    if path is not None:
        (out / LOCAL_PATHS).unlink(missing_ok=True)
        try:
            remember(out, Origin(kind, str(path.resolve()), options))
        except (DataError, OSError, RuntimeError) as error:
            console.print(f"`make volumes` will ask for SOURCE=, which could not be remembered: {error}")
    _print_report(console, built, report, source, runs)
    _print_each(console, [finding for finding in check_reports(built) if finding.level != "PASS"])
    return 0 if not report.counts["failed"] else 2


def _print_predictors(predictors: pd.DataFrame | None) -> None:
    """What may be reached without looking at a kidney, over all roles."""
    if predictors is None:
        return
    table = Table("phantoms, all roles", "predictor", "metric", "value", "95 % interval", "n", "positives", box=None)
    for row in predictors[predictors["role"] == "all"].to_dict("records"):
        interval = (
            "not defined" if pd.isna(row["low"]) else f"{row['low']:.3f} to {row['high']:.3f}{mark(row['interval'])}"
        )
        cells = (row["outcome"], row["predictor"], row["metric"], f"{row['value']:.3f}", interval)
        table.add_row(*map(str, cells), str(row["n"]), str(row["positives"]))
    Console(width=120).print(table)


def _print_report(console: Console, built: Cohort, report: ImportAccount, source: Source, runs: Path) -> None:
    counts = report.counts
    console.print(
        f"Cohort {built.info.name}: {counts['imported']} patients imported, {counts['skipped']} skipped, "
        f"{counts['failed']} failed; intensities {built.info.intensity}. {source.info.source}"
    )
    console.print(f"{report.read} read now, {len(report.rows) - report.read} kept.", highlight=False)
    if report.removed:
        _print_removed(console, built, report, runs)
    for name in report.mend:
        console.print(f"  to be made again: {name}", highlight=False)
    if (source.info.details or {}).get("pseudonyms") is False:
        console.print("The identifiers of the manifest are kept as they are; `private` replaces them by pseudonyms.")
    lost = report.rows[report.rows["status"] != "imported"]
    reasons = Counter((row.status, row.reason) for row in lost.itertuples(index=False))
    for (status, reason), count in reasons.most_common(10):
        console.print(f"  {status}, {count} patients: {reason}", highlight=False)
    console.print(_fold_table(built) if built.info.evaluation == "folds" else _center_table(built))


def _print_removed(console: Console, built: Cohort, report: ImportAccount, runs: Path) -> None:
    """How many patients left, and what of them is or was outside the cohort."""
    console.print(f"{len(report.removed)} patients are no longer in the source and were removed.", highlight=False)
    for name in drop_caches(runs, built):
        console.print(f"  removed with them, to be computed again: {name}", highlight=False)
    found = uses(runs, report.removed)
    if not found:
        console.print(f"  no run below {runs.name} used them.", highlight=False)
        return
    console.print(
        f"  {len(found)} folders below {runs.name} know them; delete what must not, and train it again:",
        highlight=False,
    )
    for use in found[:_USES_SHOWN]:
        console.print(f"    {use.folder}: {use.how}", highlight=False)
    if len(found) > _USES_SHOWN:
        console.print(f"    and {len(found) - _USES_SHOWN} more", highlight=False)


def _center_table(built: Cohort) -> Table:
    table = Table("centre", "role", "patients", "malignant", "train", "val", "test", box=None)
    for (center, role), rows in built.patients().groupby(["center", "role"], sort=True):
        splits = [str(int((rows["split"] == split).sum())) for split in ("train", "val", "test")]
        table.add_row(str(center), str(role), str(len(rows)), str(int((rows["malignancy"] == 1).sum())), *splits)
    return table


def _fold_table(built: Cohort) -> Table:
    table = Table("fold", "sites", "patients", "malignant", "aggressive", "deaths", box=None)
    for fold, rows in built.patients().groupby("fold", sort=True):
        counts = [(rows[column] == 1).sum() for column in ("malignancy", "aggressiveness", "os_event")]
        table.add_row(str(fold), str(rows["center"].nunique()), str(len(rows)), *(str(int(count)) for count in counts))
    return table


def data_check(
    data: Path = Path("data/demo"),
    out: Path | None = None,
    quick: bool = False,
    deep: bool = False,
    redact: bool = False,
) -> int:
    """Check a cohort the way a radiologist and an engineer would, before any training time is spent.

    Args:
        data: Folder of the cohort.
        out: JSON file for the findings; `<data>/data-check.json` by default.
        quick: Leave out the checksums of volumes and masks.
        deep: Read every byte of volumes, masks and shards.
        redact: Write a copy of the reports without names, dates, numbers, pathology and outcome, to be read and put in
            the place of `reports.parquet`.

    Returns:
        1 when a finding is a FAIL, else 0.
    """
    console = Console()
    findings = check_cohort(data, verify=deep or not quick, deep=deep)
    _print_findings(console, findings)
    if data.is_dir() or out is not None:
        try:
            write_json(out or data / "data-check.json", [finding.to_dict() for finding in findings])
            if not any(finding.level == "FAIL" for finding in findings):
                stamp_tables(data)
        except DataError as error:
            if out is not None:
                raise
            say(f"WARNING: {error} The findings stand above.")  # a cohort on a disk that is read only is no worse
    if redact:
        _write_redacted(data)
    return 1 if any(finding.level == "FAIL" for finding in findings) else 0


def _write_redacted(data: Path) -> None:
    """Write the cleaned copy of a cohort's reports beside them.

    Raises:
        DataError: if the cohort cannot be loaded or has no reports.
    """
    cohort = Cohort.load(data)
    if "reports" not in cohort.tables:
        raise DataError(f"Cohort {cohort.info.name} has no reports; REDACT has nothing to clean.")
    reports = cohort["reports"]
    rows = cleaned(reports.to_dict("records"))
    frame = conform(pd.DataFrame(rows, columns=list(reports.columns)), TABLES["reports"])
    same = frame.merge(reports, on=["report_id", "text"]).shape[0]
    write_parquet(data / "reports-redacted.parquet", frame)
    say(
        f"reports-redacted.parquet: {len(frame) - same} of {len(reports)} reports were cleaned and "
        f"{len(reports) - len(frame)} left out, as nothing was left of them. Read it, put it in the place of "
        "reports.parquet, and run `make attributes` again."
    )


def _print_findings(console: Console, findings: list[Finding]) -> None:
    _print_each(console, findings)
    tally = Counter(finding.level for finding in findings)
    console.print(f"{tally['PASS']} PASS, {tally['WARN']} WARN, {tally['FAIL']} FAIL")


def _print_each(console: Console, findings: list[Finding]) -> None:
    colours = {"PASS": "green", "WARN": "yellow", "FAIL": "red"}
    for finding in findings:
        console.print(
            f"[{colours[finding.level]}]{finding.level}[/] {finding.sentence()}", highlight=False, soft_wrap=True
        )


def reports(data: Path) -> int:
    """Write reports that hold what the masks show, marked as generated, for a cohort without reports.

    Args:
        data: Folder of the cohort.
    """
    cohort = Cohort.load(data)
    frame = geometry_reports(cohort)
    raise_failures(check_table(frame, TABLES["reports"], "reports.parquet"))
    write_parquet(data / "reports.parquet", conform(frame, TABLES["reports"]))
    Cohort.recheck(data)
    say(
        f"Cohort {cohort.info.name}: {len(frame)} reports written from measured geometry, marked generated; they hold "
        f"nothing of intensity, histology, grade or stage. The first:\n{frame['text'].iloc[0]}"
    )
    return 0
