"""How far two extractors agree, by attribute, with intervals over patients."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

from datamodules.cohort.columns import SIDES
from datamodules.reports.attribute_table import KIDNEY, NOT_STATED
from datamodules.reports.schema import AttributeSchema
from experiments.statistics.proportions import BOOTSTRAP, CLOPPER_PEARSON, LEVEL, unvaried_ends
from experiments.statistics.support import Interval

RESAMPLES = 1000
_ENOUGH = 0.9
"""Share of the resamples in which a figure must be defined for its interval to be given."""

UNDEFINED = Interval(float("nan"), float("nan"), "none")


def reported_kidneys(reports: pd.DataFrame) -> pd.DataFrame:
    """The kidneys that reports speak of, whether or not they state anything of them.

    Args:
        reports: Rows of the table `reports`; one with a side speaks of that kidney only.

    Returns:
        patient_id, study_id, side without repetition.
    """
    rows = [
        (row["patient_id"], row["study_id"], side)
        for row in reports.to_dict("records")
        for side in (SIDES if pd.isna(row.get("side")) else (row["side"],))
    ]
    return pd.DataFrame(rows, columns=KIDNEY).drop_duplicates(ignore_index=True)


def values_of(table: pd.DataFrame, kidneys: pd.DataFrame, attribute: str, column: str = "value") -> pd.Series:
    """The value of an attribute for every kidney, "not stated" where the table has no row.

    Args:
        table: Rows of the table `attributes`.
        kidneys: Kidneys in the order wanted.
        attribute: Name of the attribute.
        column: Another column of the table, for example `evidence`; empty where the table has no row.
    """
    rows = table[table["attribute"] == attribute].set_index(KIDNEY)[column]
    found = rows.reindex(pd.MultiIndex.from_frame(kidneys[KIDNEY])).reset_index(drop=True)
    filled: pd.Series = found.astype(object).mask(found.isna(), NOT_STATED if column == "value" else "")
    return filled


def wilson(successes: int, trials: int) -> Interval:
    """Wilson's interval of a proportion (JASA 1927), which takes kidneys as independent."""
    if trials == 0:
        return UNDEFINED
    ends = binomtest(int(successes), int(trials)).proportion_ci(LEVEL, method="wilson")
    return Interval(float(ends.low), float(ends.high), "Wilson")


def bootstrap(
    first: np.ndarray,
    second: np.ndarray,
    patients: np.ndarray,
    size: int,
    figure: Callable[[np.ndarray], np.ndarray],
    lowest: float = 0.0,
) -> Interval:
    """Percentile interval of a figure of the cross table, with patients drawn again, both their kidneys together.

    Args:
        first: Class indices below `size`, one per kidney.
        second: Class indices of the other reader.
        patients: Patient of every kidney.
        size: Number of classes.
        figure: From cross tables [resamples, size, size] to values of at most 1, NaN where not defined.
        lowest: Its least possible value.

    Returns:
        The interval; where no resample differs, that of `unvaried_ends`. Undefined where the figure is defined in less
        than 90 % of the resamples.
    """
    names, rows = np.unique(patients, return_inverse=True)
    counts = np.zeros((len(names), size * size))
    np.add.at(counts, (rows, first * size + second), 1.0)
    values = figure((_draws(len(names)) @ counts).reshape(RESAMPLES, size, size))
    values = values[np.isfinite(values)]
    if len(values) < _ENOUGH * RESAMPLES:
        return UNDEFINED
    low, high = np.quantile(values, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    if high - low <= 1e-9:
        return Interval(*unvaried_ends(float(low), lowest, 1.0, len(names)), CLOPPER_PEARSON)
    return Interval(float(low), float(high), BOOTSTRAP)


def least_kappa(first: np.ndarray, second: np.ndarray, size: int) -> float:
    """Cohen's kappa of disagreement throughout, at the agreement that is expected by chance, and at least -1.

    Args:
        first: Class indices below `size`, not empty.
        second: Class indices of the other reader.
        size: Number of classes.
    """
    shares = [np.bincount(codes, minlength=size) / len(codes) for codes in (first, second)]
    chance = float(shares[0] @ shares[1])
    return max(-1.0, -chance / (1 - chance)) if chance < 1 else -1.0


@lru_cache(maxsize=2)
def _draws(patients: int) -> np.ndarray:
    """How often each patient is drawn in each resample; the same for every attribute."""
    rng = np.random.default_rng(0)
    return rng.multinomial(patients, np.full(patients, 1 / patients), RESAMPLES).astype(float)


def kappa_of(tables: np.ndarray) -> np.ndarray:
    """Cohen's kappa of cross tables [..., classes, classes]; NaN where both readers always say the same one thing."""
    total = tables.sum(axis=(-2, -1))
    observed = np.trace(tables, axis1=-2, axis2=-1) / total
    expected = (tables.sum(axis=-1) * tables.sum(axis=-2)).sum(axis=-1) / total**2
    undefined = np.full(np.shape(expected), np.nan)
    return np.divide(observed - expected, 1.0 - expected, out=undefined, where=expected < 1.0)


def agreement(
    first: pd.DataFrame, second: pd.DataFrame, kidneys: pd.DataFrame, schema: AttributeSchema
) -> pd.DataFrame:
    """Agreement of two tables by attribute, "not stated" being a class of its own.

    Args:
        first: Rows of the table `attributes` by one extractor.
        second: By another.
        kidneys: The kidneys that both have read of.
        schema: Attributes and classes.

    Returns:
        One row per attribute: patients, n (kidneys), stated by first, by second and by both, the share with the same
        answer with Wilson's interval, Cohen's kappa with its interval over patients and the name of its method. Kappa
        is not defined where both give one and the same answer throughout.
    """
    rows = []
    patients = kidneys["patient_id"].to_numpy(dtype=object)
    for attribute in schema.attributes:
        labels = [*attribute.class_names, NOT_STATED]
        one, two = (values_of(table, kidneys, attribute.name) for table in (first, second))
        codes = [series.map({label: code for code, label in enumerate(labels)}).to_numpy(int) for series in (one, two)]
        same = int((codes[0] == codes[1]).sum())
        defined = len(kidneys) > 0 and len(set(codes[0]) | set(codes[1])) > 1
        kappa = cohen_kappa_score(*codes, labels=list(range(len(labels)))) if defined else float("nan")
        interval = UNDEFINED
        if defined:
            least = least_kappa(codes[0], codes[1], len(labels))
            interval = bootstrap(codes[0], codes[1], patients, len(labels), kappa_of, least)
        share = wilson(same, len(kidneys))
        rows.append(
            {
                "attribute": attribute.name,
                "patients": kidneys["patient_id"].nunique(),
                "n": len(kidneys),
                "stated_first": int((one != NOT_STATED).sum()),
                "stated_second": int((two != NOT_STATED).sum()),
                "stated_both": int(((one != NOT_STATED) & (two != NOT_STATED)).sum()),
                "same": same / len(kidneys) if len(kidneys) else float("nan"),
                "same_low": share.low,
                "same_high": share.high,
                "kappa": float(kappa),
                "kappa_low": interval.low,
                "kappa_high": interval.high,
                "kappa_interval": interval.method,
            }
        )
    return pd.DataFrame(rows)


def disagreements(
    first: pd.DataFrame, second: pd.DataFrame, kidneys: pd.DataFrame, schema: AttributeSchema
) -> pd.DataFrame:
    """Every kidney and attribute that two tables disagree on, with the words each of them quotes.

    Args:
        first: As `agreement`.
        second: As above.
        kidneys: As above.
        schema: As above.

    Returns:
        patient_id, study_id, side, attribute, value and evidence of either.
    """
    parts = []
    for name in schema.names:
        frame = kidneys[KIDNEY].reset_index(drop=True).assign(attribute=name)
        for which, table in (("first", first), ("second", second)):
            frame[f"value_{which}"] = values_of(table, kidneys, name)
            frame[f"evidence_{which}"] = values_of(table, kidneys, name, "evidence")
        parts.append(frame[frame["value_first"] != frame["value_second"]])
    return pd.concat(parts, ignore_index=True)
