"""Subgroup tables: the metric of an encoder by centre, phase, tumour size, sex and age."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.columns import PHASES
from datamodules.cohort.study_times import STUDY, index_kidneys
from experiments.scores.outcomes import Metric, metric_of, outcomes_of
from experiments.scores.results_table import Group, groups
from experiments.statistics.heterogeneity import cochran_q
from experiments.studies.compare import REPORTED, pooled_seeds

MOST_CENTERS = 14
FEWEST = 10
"""Smaller subgroups are listed with their n and without a metric, which would be noise and might name a patient."""
_SIZES = (("4 cm or less", 0.0, 40.0), ("more than 4, up to 7 cm", 40.0, 70.0), ("more than 7 cm", 70.0, np.inf))
_AGES = (("under 50 years", 0.0, 50.0), ("50 to 64 years", 50.0, 65.0), ("65 years or older", 65.0, np.inf))


@dataclass(frozen=True)
class Subgroup:
    """A subgroup of patients.

    Args:
        variable: What it is divided by.
        level: Which part it is.
        patients: The patients.
        apart: Whether the parts of the variable share no patient, so that they can be compared.
    """

    variable: str
    level: str
    patients: frozenset[str]
    apart: bool = True


def subgroups_of(cohort: Cohort) -> list[Subgroup]:
    """The subgroups that every study reports, of all patients of a cohort.

    Size classes are those of T1a, T1b and T2, of the diameter that the source reports, or where that is missing of the
    index lesion; ages are under 50, 50 to 64, 65 and older. A patient whose value is missing is in no part. Phases are
    those that a patient was scanned in: since predictions are averaged over them, the parts overlap.
    """
    patients = cohort.patients().set_index("patient_id")
    index = index_kidneys(cohort).drop_duplicates("patient_id").set_index("patient_id")
    size = patients["tumor_size_mm"].fillna(index["lesion_diameter_mm"].reindex(patients.index))
    found = []
    if 1 < patients["center"].nunique() <= MOST_CENTERS:
        found += [_part("Centre", str(name), rows.index) for name, rows in patients.groupby("center")]
    read = cohort["series"].merge(index_kidneys(cohort)[STUDY].drop_duplicates(), on=STUDY)
    scanned = read.groupby("phase")["patient_id"].agg(set)
    found += [
        Subgroup("Phase", f"{phase.replace('_', '-')} scanned", frozenset(map(str, scanned[phase])), apart=False)
        for phase in PHASES
        if phase in scanned
    ]
    found += [_part("Tumour size", name, size.index[(size > low) & (size <= high)]) for name, low, high in _SIZES]
    found += [
        _part("Sex", str(name), patients.index[(patients["sex"] == name).fillna(False)]) for name in ("female", "male")
    ]
    age = patients["age_years"]
    found += [_part("Age", name, age.index[((age >= low) & (age < high)).fillna(False)]) for name, low, high in _AGES]
    return [subgroup for subgroup in found if subgroup.patients]


def _part(variable: str, level: str, patients: pd.Index) -> Subgroup:
    return Subgroup(variable, level, frozenset(map(str, patients)))


def subgroup_table(
    tables: list[pd.DataFrame], subgroups: list[Subgroup], fewest: int = FEWEST, replicates: int = 2000
) -> pd.DataFrame:
    """The metric of one encoder in every subgroup of the pooled groups, averaged over seeds.

    The interval is a percentile bootstrap over the subgroup's patients, as of `pooled_seeds`. Of a survival task the
    endpoint that was trained on is scored.

    Args:
        tables: Predictions of each seed.
        subgroups: From `subgroups_of`.
        fewest: A subgroup with fewer patients, or without patients of two classes, or events, has no metric.
        replicates: Bootstrap replicates.

    Returns:
        Columns group, endpoint, variable, level, n, what is counted, the metric, low, high, interval (its
        method), and p: Cochran's test that the parts of a variable have one metric, NaN where the parts overlap or
        fewer than two are defined. The first row of a group is all of its patients.
    """
    metric = metric_of(tables[0])
    rows: list[dict[str, object]] = []
    for group in groups(tables[0]):
        if group.kind in REPORTED:
            rows += _of_group(tables, group, subgroups, metric, fewest, replicates)
    columns = ["group", "endpoint", "variable", "level", "n", metric.count, metric.name, "low", "high", "interval", "p"]
    return pd.DataFrame(rows, columns=columns)


def _of_group(
    tables: list[pd.DataFrame],
    group: Group,
    subgroups: list[Subgroup],
    metric: Metric,
    fewest: int,
    replicates: int,
) -> list[dict[str, object]]:
    everybody = Subgroup("All", "all patients", frozenset(group.rows["patient_id"]))
    rows: list[dict[str, object]] = []
    errors: dict[str, list[tuple[float, float]]] = {}
    for part in [everybody, *subgroups]:
        chosen = group.rows[group.rows["patient_id"].isin(list(part.patients))]
        outcome = next(outcomes_of(chosen), None) if len(chosen) else None
        if outcome is None or not len(outcome.rows):
            continue
        row: dict[str, object] = {"group": group.name, "endpoint": outcome.endpoint, "variable": part.variable}
        row |= {"level": part.level, "n": len(outcome.rows), metric.count: outcome.count}
        row |= dict.fromkeys((metric.name, "low", "high", "p"), np.nan) | {"interval": f"none: under {fewest} patients"}
        if len(outcome.rows) >= fewest:
            pooled = pooled_seeds(tables, outcome.rows["patient_id"].tolist(), outcome.endpoint, replicates)
            row |= {metric.name: pooled.estimate.value, "low": pooled.estimate.low, "high": pooled.estimate.high}
            row["interval"] = pooled.estimate.interval
            spread = float(np.nanstd(pooled.values, ddof=1)) if np.isfinite(pooled.estimate.low) else float("nan")
            if part.apart:
                errors.setdefault(part.variable, []).append((pooled.estimate.value, spread))
        rows.append(row)
    for row in rows:
        parts = errors.get(str(row["variable"]), [])
        if len(parts) > 1:
            row["p"] = cochran_q(*map(np.array, zip(*parts, strict=True))).p
    return rows
