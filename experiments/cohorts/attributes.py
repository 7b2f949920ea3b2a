"""`make attributes`: structured attributes of every kidney, read out of the reports of a cohort."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datamodules.cohort.cohort import Cohort
from datamodules.csv_files import write_csv
from datamodules.errors import DataError, raise_failures
from datamodules.files import read_json_mapping, read_parquet, replacing, write_json, write_parquet
from datamodules.phantoms.centers import CENTERS
from datamodules.reports.attribute_table import REVIEWER, check_attributes, merge_review, statements_table
from datamodules.reports.reader.statements import Extractor, Statement, check_statement
from datamodules.reports.schema import AttributeSchema, load_schema
from experiments.cohorts.attributes_page import draw_report, print_report
from experiments.cohorts.extractor_accuracy import EVERY, accuracy, stated_truth
from experiments.cohorts.extractor_agreement import agreement, disagreements, reported_kidneys
from experiments.registry import choose
from experiments.runs.console import progress_bar, say
from experiments.runs.started_ranks import wait_for_main
from lightning_modules.core.distributed import is_main_rank

_RUN = "attributes_run"
"""Key in the header of a Parquet file: hash of everything that its rows depend on."""


def with_attributes(cohort: Cohort, data: Path) -> Cohort:
    """The cohort with its attribute table, read out of the reports by rules where it is not there yet.

    Args:
        cohort: The cohort.
        data: Its folder.
    """
    if "attributes" in cohort.tables:
        return cohort
    table = data / "attributes.parquet"  # an earlier stage of the same command may have written it
    if is_main_rank() and not table.is_file():
        say("The cohort has no attribute table yet; reading its reports by rules (`make attributes` does more).")
        attributes(data)
    wait_for_main("attribute table", table.is_file)
    return Cohort.load(data)


def _rules(schema: AttributeSchema, model: str, data: Path) -> Extractor:
    from datamodules.reports.reader.rules import RuleExtractor

    return RuleExtractor(schema)


def _llm(schema: AttributeSchema, model: str, data: Path) -> Extractor:
    from datamodules.reports.llm.extractor import LlmExtractor
    from datamodules.reports.llm.models import load_causal_lm

    return LlmExtractor(load_causal_lm(model), schema, cache=data / "attributes" / ".answers")


EXTRACTORS: dict[str, Callable[[AttributeSchema, str, Path], Extractor]] = {"rules": _rules, "llm": _llm}
"""From a name to the extractor, made from schema, name of a language model and folder of the cohort."""


@dataclass(frozen=True)
class _Job:
    """What one call reads and where it writes.

    `full` says whether all reports are read: only then is the cohort's own table written.
    """

    cohort: Cohort
    schema: AttributeSchema
    reports: pd.DataFrame
    folder: Path
    full: bool

    @property
    def reports_hash(self) -> str:
        return _hash(self.reports[["report_id", "text"]].to_csv(index=False))


def attributes(
    data: Path = Path("data/demo"),
    extractor: str = "rules",
    compare: str = "",
    model: str = "smollm2",
    review: Path | None = None,
    limit: int = 0,
    out: Path | None = None,
) -> int:
    """Read structured attributes out of the reports of a cohort, with the words that state them.

    Args:
        data: Folder of the cohort.
        extractor: Who reads: rules, or llm for a language model.
        compare: A second extractor, to see where the two agree.
        model: Language model of llm: smollm2 (small, for trying out), a folder, or a hub id.
        review: CSV of a reviewer's corrections, merged on top of what the extractor found.
        limit: Read so many reports only, spread over the cohort, and leave the cohort's table as it is; 0 for all.
        out: Folder of tables and picture; `<data>/attributes` by default.

    Returns:
        0 when the attributes are there, new or from an earlier call.
    """
    names = [choose("EXTRACTOR", extractor, dict(EXTRACTORS))]
    if compare:
        names.append(choose("COMPARE", compare, dict(EXTRACTORS)))
    if len(set(names)) < len(names):
        raise DataError(f"EXTRACTOR and COMPARE are both {extractor}; name two different ones of {list(EXTRACTORS)}.")
    if review is not None and not review.is_file():
        raise DataError(f"REVIEW={review.name} does not exist; expected a CSV file with a reviewer's corrections.")
    job = _job(data, limit, out)
    readers = {name: EXTRACTORS[name](job.schema, model, data) for name in names}
    corrections = review.read_bytes().hex() if review is not None else ""
    prints = {name: reader.fingerprint for name, reader in readers.items()}
    run = _hash(json.dumps([prints, job.schema.hash, job.reports_hash, _truth_hash(data), corrections, limit]))
    if _finished(job, run):
        say(f"The attributes of cohort {job.cohort.info.name} by {' and '.join(names)} are there already.")
        print_report(read_json_mapping(job.folder / "summary.json"), job.folder)
        return 0
    tables = {name: _extracted(job, reader) for name, reader in readers.items()}
    if review is not None:
        tables[extractor] = merge_review(tables[extractor], review, job.schema, job.cohort["kidneys"])
    summary = {"extractor": extractor, "compare": compare or None, "model": model if "llm" in names else None}
    _report(job, tables, summary | {"fingerprints": prints, "run": run})
    return 0


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _truth_hash(data: Path) -> str:
    path = data / "truth.parquet"
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""


def _job(data: Path, limit: int, out: Path | None) -> _Job:
    cohort = Cohort.load(data)
    if "reports" not in cohort.tables or cohort["reports"].empty:
        raise DataError(
            f"Cohort {cohort.info.name} has no reports, out of which attributes are read; import it with a table of "
            "reports (datamodules/importers/README.md, Reports), or draw the phantom cohort with `make cohort`."
        )
    reports = cohort["reports"]
    if limit < 0:
        raise DataError(f"LIMIT={limit}; expected 0 for all reports, or the number of reports to read.")
    full = limit in (0, len(reports)) or limit > len(reports)
    if not full:
        reports = reports.iloc[np.linspace(0, len(reports) - 1, limit).round().astype(int)].reset_index(drop=True)
    folder = out or data / "attributes" / ("" if full else f"limit-{limit}")
    return _Job(cohort, load_schema(), reports, folder, full)


def _finished(job: _Job, run: str) -> bool:
    """Whether an earlier call wrote everything that this one would."""
    path = job.folder / "summary.json"
    try:
        summary = read_json_mapping(path, "run", "files") if path.is_file() else {}
    except DataError:  # damaged: the tables are written again, from answers that are kept
        return False
    if summary.get("run") != run or not all((job.folder / name).is_file() for name in summary["files"]):
        return False
    return not job.full or _header(job.cohort.root / "attributes.parquet").get(_RUN) == run


def _header(path: Path) -> dict[str, str]:
    return read_parquet(path)[1] if path.is_file() else {}


def _extracted(job: _Job, reader: Extractor) -> pd.DataFrame:
    """The table of one extractor: from an earlier call where nothing that it depends on has changed."""
    path = job.folder / f"{reader.name}.parquet"
    run = _hash(json.dumps([reader.fingerprint, job.schema.hash, job.reports_hash]))
    if _header(path).get(_RUN) == run:
        return read_parquet(path)[0]
    texts = [str(text) for text in job.reports["text"]]
    check = getattr(reader, "check", None)
    if check is not None:  # whatever an extractor cannot read is refused before the first report
        check(texts)
    found = _read(reader, texts)
    for report, text, statements in zip(job.reports["report_id"], texts, found, strict=True):
        _checked(report, text, statements, job.schema)
    table = statements_table(job.reports, found, reader.name, job.schema)
    raise_failures(check_attributes(table, job.schema, path.name))
    write_parquet(path, table, {_RUN: run})
    return table


def _read(reader: Extractor, texts: list[str]) -> list[list[Statement]]:
    found: list[list[Statement]] = []
    with progress_bar() as bar:
        task = bar.add_task(f"{reader.name}: reports", total=len(texts))
        for text in texts:
            found += reader.extract([text])
            bar.advance(task)
    return found


def _checked(report: str, text: str, statements: list[Statement], schema: AttributeSchema) -> None:
    for statement in statements:
        try:
            check_statement(statement, text, schema.classes)
        except DataError as error:
            raise DataError(f"Report {report}: {error}") from error


def _report(job: _Job, tables: Mapping[str, pd.DataFrame], summary: dict[str, Any]) -> None:
    """Write everything: the cohort's table after the tables of the report, `summary.json` last."""
    primary = tables[summary["extractor"]]
    kidneys = reported_kidneys(job.reports)
    files = {f"{name}.parquet" for name in tables} | {"attributes.png"}
    results = {"agreement": _agreement(job, tables, kidneys), "accuracy": _accuracy(job, tables, kidneys)}
    if len(tables) == 2:
        first, second = tables.values()
        results["disagreements"] = disagreements(first, second, kidneys, job.schema)
    for name in ("agreement", "accuracy", "disagreements"):
        path = job.folder / f"{name}.csv"
        frame = results.get(name)
        if frame is None:
            path.unlink(missing_ok=True)  # of an earlier call with another extractor
            continue
        write_csv(path, frame)
        files.add(path.name)
    summary |= _counts(job, primary, kidneys) | {"files": sorted(files)}
    with replacing(job.folder / "attributes.png") as temporary:
        draw_report(primary, kidneys, results["agreement"], results["accuracy"], job.schema, summary, temporary)
    if job.full:
        raise_failures(check_attributes(primary, job.schema))
        before = _header(job.cohort.root / "attributes.parquet").get("extractor")
        if before not in (None, summary["extractor"]):
            say(f"attributes.parquet was by {before} and is now by {summary['extractor']}; {before}.parquet stays.")
        header = {_RUN: summary["run"], "schema": job.schema.hash, "extractor": summary["extractor"]}
        write_parquet(job.cohort.root / "attributes.parquet", primary, header)
        Cohort.recheck(job.cohort.root)
    write_json(job.folder / "summary.json", summary)
    print_report(summary, job.folder)


def _counts(job: _Job, table: pd.DataFrame, kidneys: pd.DataFrame) -> dict[str, Any]:
    return {
        "cohort": job.cohort.info.name,
        "phantom": job.cohort.info.phantom,
        "schema_version": job.schema.version,
        "schema_hash": job.schema.hash,
        "reports": len(job.reports),
        "reports_in_cohort": len(job.cohort["reports"]),
        "patients": int(kidneys["patient_id"].nunique()),
        "kidneys": len(kidneys),
        "statements": len(table),
        "uncertain": int(table["uncertain"].sum()),
        "reviewed": int((table["extractor"] == REVIEWER).sum()),
        "stated": {name: int((table["attribute"] == name).sum()) for name in job.schema.names},
    }


def _agreement(job: _Job, tables: Mapping[str, pd.DataFrame], kidneys: pd.DataFrame) -> pd.DataFrame | None:
    if len(tables) < 2:
        return None
    (first, one), (second, two) = tables.items()
    frame = agreement(one, two, kidneys, job.schema)
    return frame.assign(first=first, second=second)


def _accuracy(job: _Job, tables: Mapping[str, pd.DataFrame], kidneys: pd.DataFrame) -> pd.DataFrame | None:
    """Against the truth of a generated cohort, of every extractor and by group of centres."""
    path = job.cohort.root / "truth.parquet"
    if not path.is_file():
        return None
    truth = read_parquet(path)[0]
    if "stated" not in truth:
        return None
    known = stated_truth(truth, job.schema)
    groups = _groups(job.cohort, kidneys)
    parts = [
        accuracy(table, known, kidneys, groups, job.schema).assign(extractor=name) for name, table in tables.items()
    ]
    return pd.concat(parts, ignore_index=True)


def _groups(cohort: Cohort, kidneys: pd.DataFrame) -> dict[str, np.ndarray]:
    """All kidneys, those of every role, and of phantoms those written with each bank of phrases."""
    patients = cohort.patients().set_index("patient_id")
    center, role = (kidneys["patient_id"].map(patients[name]).astype(str) for name in ("center", "role"))
    groups = {EVERY: np.ones(len(kidneys), dtype=bool)}
    groups |= {f"role {name}": (role == name).to_numpy(bool) for name in sorted(set(role))}
    banks = {entry.name: entry.bank for entry in CENTERS}
    if cohort.info.phantom and set(center) <= set(banks):
        bank = center.map(banks)
        groups |= {f"phrases {name}": (bank == name).to_numpy(bool) for name in sorted(set(bank))}
    return groups
