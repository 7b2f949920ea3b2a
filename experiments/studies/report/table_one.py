"""Table 1: who the patients are, by role, fold and centre."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.columns import ENDPOINTS, PHASES, ROLES
from datamodules.cohort.study_times import rows_before_treatment
from experiments.statistics.balance import categorical_p, largest_smd, numeric_p
from experiments.statistics.estimate import Estimate
from experiments.statistics.kaplan_meier import kaplan_meier, log_rank
from experiments.studies.report.journal_words import interval, median_range, number, p_value, share
from experiments.studies.report.report_page import PageTable, Row

MOST_COLUMNS = 14
_MOST_LEVELS = 8
_STAGES = {"0": "pT0", "X": "pTX"} | {f"{n}{part}": f"pT{n}" for n in "1234" for part in ("", "a", "b", "c")}
_ENDPOINT_TITLES = {"rfs": "Recurrence-free survival", "dss": "Disease-specific survival", "os": "Overall survival"}

Groups = dict[str, pd.DataFrame]


@dataclass(frozen=True)
class _Line:
    """A line of the table: its words, and the numbers behind them."""

    name: str
    cells: tuple[str, ...]
    smd: float = float("nan")
    p: float = float("nan")
    heading: bool = False


def table_one(cohort: Cohort) -> list[PageTable]:
    """Characteristics by role or fold, and by centre where these are few enough for a page.

    Numbers are given as median (quartiles), categories as n (%) of the patients in whom they are known; the missing
    are counted. Follow-up is the median by reverse Kaplan-Meier (Schemper and Smith, 1996). Groups are compared by the
    largest standardised difference of any two, and by Kruskal-Wallis, chi-squared or log-rank tests.
    """
    patients = _described(cohort)
    folds = cohort.info.evaluation == "folds"
    if folds:
        groups = {f"Fold {int(str(fold)) + 1}": rows for fold, rows in patients.groupby("fold")}
    else:
        titles = {"pretrain": "Pretraining", "internal": "Internal", "external": "External"}
        groups = {titles[role]: patients[patients["role"] == role] for role in ROLES}
    groups = {name: rows for name, rows in groups.items() if len(rows)}
    by = "fold" if folds else "role of the centre"
    tables = [_table("table1", f"Characteristics of the patients by {by}.", patients, groups, compared=True)]
    centers = {str(name): rows for name, rows in _by_center(patients)}
    if 1 < len(centers) <= MOST_COLUMNS:
        tables.append(_table("table1-centers", "Characteristics of the patients by centre.", patients, centers))
    return tables


def _by_center(patients: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    found = [(str(name), rows) for name, rows in patients.groupby("center")]
    return sorted(found, key=lambda entry: (ROLES.index(str(entry[1]["role"].iloc[0])), entry[0]))


def _described(cohort: Cohort) -> pd.DataFrame:
    """Patients with the phases of their scans and pT in whole stages."""
    patients = cohort.patients()
    series = rows_before_treatment(cohort, cohort["series"])
    phases = series.groupby("patient_id")["phase"].agg(lambda found: ",".join(sorted(set(found))))
    found = patients["patient_id"].map(phases).fillna("")
    for phase in PHASES:
        patients[f"phase_{phase}"] = [phase in names.split(",") for names in found]
    patients["stage"] = patients["stage_pt"].map(_STAGES)
    return patients


def _table(name: str, caption: str, patients: pd.DataFrame, groups: Groups, compared: bool = False) -> PageTable:
    shown = {"All": patients, **groups}
    lines = [
        _Line("Patients", tuple(str(len(rows)) for rows in shown.values())),
        *_numeric(shown, "age_years", "Age, years"),
        *_category(shown, "sex", "Female", lambda value: value == "female"),
        *_numeric(shown, "bmi_kg_m2", "Body-mass index, kg/m\N{SUPERSCRIPT TWO}", 1),
        *_numeric(shown, "tumor_size_mm", "Tumour size, mm"),
        *_levels(shown, "histology", "Histology"),
        *_category(shown, "malignancy", "Malignant", lambda value: value == 1),
        *_category(shown, "aggressiveness", "Aggressive", lambda value: value == 1),
        *_levels(shown, "isup_grade", "WHO/ISUP grade"),
        *_levels(shown, "stage", "Pathological T stage"),
        *_levels(shown, "stage_pn", "Pathological N stage", "N"),
        *_levels(shown, "stage_pm", "M stage", "M"),
        *_phases(shown),
        *(line for endpoint in ENDPOINTS for line in _endpoint(shown, endpoint)),
    ]
    header = ("", *(f"{title} (n = {len(rows)})" for title, rows in shown.items()))
    rows = tuple(
        Row((line.name, *line.cells, *((_smd(line.smd), _p(line.p)) if compared else ())), line.heading)
        for line in lines
    )
    frame = pd.DataFrame([(line.name, *line.cells, line.smd, line.p) for line in lines if not line.heading])
    frame.columns = pd.Index(["characteristic", *shown, "largest_smd", "p"])
    note = (
        "Median (quartiles), or n (%) of the patients in whom it is known. Follow-up: median by reverse Kaplan-Meier "
        "with 95 % CI."
    )
    if compared:
        note += (
            " SMD: the largest standardised difference of any two groups; above 0.1 is commonly called imbalance. p: "
            "Kruskal-Wallis, chi-squared or log-rank test over groups, not corrected for the number of rows."
        )
    return PageTable(name, caption, (*header, *(("SMD", "p") if compared else ())), rows, frame, note)


def _smd(value: float) -> str:
    return "" if np.isnan(value) else ("infinite" if np.isinf(value) else number(value))


def _p(value: float) -> str:
    return "" if np.isnan(value) else p_value(value)


def _missing(shown: Groups, column: str) -> list[_Line]:
    counts = [int(rows[column].isna().sum()) for rows in shown.values()]
    if not any(counts):
        return []
    return [
        _Line("\N{EM SPACE}missing", tuple(share(c, len(rows)) for c, rows in zip(counts, shown.values(), strict=True)))
    ]


def _numeric(shown: Groups, column: str, title: str, digits: int = 0) -> list[_Line]:
    values = [rows[column].dropna().to_numpy(dtype=float) for rows in shown.values()]
    if not len(values[0]):
        return [_Line(title, tuple("not recorded" for _ in shown))]
    cells = tuple(median_range(rows[column], digits) for rows in shown.values())
    line = _Line(title, cells, largest_smd(values[1:], categorical=False), numeric_p(values[1:]))
    return [line, *_missing(shown, column)]


def _category(shown: Groups, column: str, title: str, positive: Callable[[object], bool]) -> list[_Line]:
    values = [[str(positive(value)) for value in rows[column].dropna()] for rows in shown.values()]
    if not values[0]:
        return [_Line(title, tuple("not recorded" for _ in shown))]
    cells = tuple(share(own.count("True"), len(own)) for own in values)
    line = _Line(title, cells, largest_smd(values[1:], categorical=True), categorical_p(values[1:]))
    return [line, *_missing(shown, column)]


def _levels(shown: Groups, column: str, title: str, prefix: str = "") -> list[_Line]:
    """A line per level; the rarest beyond eight are counted together."""
    total = shown["All"][column].dropna().astype(str)
    if total.empty:
        return [_Line(title, tuple("not recorded" for _ in shown))]
    common = list(total.value_counts().index[:_MOST_LEVELS])
    names = common if column == "histology" else sorted(common)
    values = [rows[column].dropna().astype(str).where(lambda own: own.isin(names), "other") for rows in shown.values()]
    levels = [*names, *(["other"] if (values[0] == "other").any() else [])]
    groups = [list(own) for own in values[1:]]
    head = _Line(title, tuple("" for _ in shown), largest_smd(groups, categorical=True), categorical_p(groups))
    lines = [
        _Line(
            f"\N{EM SPACE}{prefix}{level.replace('_', ' ')}",
            tuple(share(int((own == level).sum()), len(own)) for own in values),
        )
        for level in levels
    ]
    return [head, *lines, *_missing(shown, column)]


def _phases(shown: Groups) -> list[_Line]:
    head = _Line("Contrast phases scanned", tuple("" for _ in shown))
    lines = []
    for phase in PHASES:
        values = [[str(bool(value)) for value in rows[f"phase_{phase}"]] for rows in shown.values()]
        cells = tuple(share(own.count("True"), len(own)) for own in values)
        title = f"\N{EM SPACE}{phase.replace('_', '-')}"
        lines.append(_Line(title, cells, largest_smd(values[1:], categorical=True), categorical_p(values[1:])))
    return [head, *lines]


def _endpoint(shown: Groups, endpoint: str) -> list[_Line]:
    columns = [f"{endpoint}_months", f"{endpoint}_event"]
    known = [rows.dropna(subset=columns) for rows in shown.values()]
    title = _ENDPOINT_TITLES[endpoint]
    if known[0].empty:
        return [_Line(title, tuple("not recorded" for _ in shown))]
    events = [int(rows[columns[1]].astype(bool).sum()) for rows in known]
    test = _log_rank(known[1:], columns)
    return [
        _Line(f"{title}: events", tuple(share(n, len(rows)) for n, rows in zip(events, known, strict=True)), p=test),
        _Line("\N{EM SPACE}follow-up, months", tuple(_follow_up(rows, columns) for rows in known)),
        *_missing(shown, columns[1]),
    ]


def _follow_up(rows: pd.DataFrame, columns: Sequence[str]) -> str:
    estimate = follow_up(rows[columns[0]].to_numpy(dtype=float), rows[columns[1]].to_numpy(dtype=bool))
    return "not reached" if np.isinf(estimate.value) else interval(estimate, 0)


def follow_up(time_months: np.ndarray, event: np.ndarray) -> Estimate:
    """Median follow-up with its interval by reverse Kaplan-Meier: events are censored, censoring is the event.

    Schemper and Smith, Controlled Clinical Trials 1996. Infinite where fewer than half are censored in time.
    """
    if not len(time_months):
        return Estimate(float("nan"), float("nan"), float("nan"), 0, 0)
    return kaplan_meier(time_months, ~np.asarray(event, dtype=bool)).median


def _log_rank(groups: Sequence[pd.DataFrame], columns: Sequence[str]) -> float:
    present = [rows for rows in groups if len(rows)]
    if len(present) < 2:
        return float("nan")
    joined = pd.concat(present)
    names = np.repeat(np.arange(len(present)), [len(rows) for rows in present])
    return log_rank(joined[columns[0]].to_numpy(dtype=float), joined[columns[1]].to_numpy(dtype=bool), names).p
