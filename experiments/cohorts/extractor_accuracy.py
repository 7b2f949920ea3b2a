"""How right an extractor is where a generated cohort knows what its reports state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import f1_score

from datamodules.errors import DataError
from datamodules.reports.attribute_table import KEY, KIDNEY, NOT_STATED
from datamodules.reports.schema import Attribute, AttributeSchema
from experiments.cohorts.extractor_agreement import UNDEFINED, bootstrap, values_of, wilson

EVERY = "(all)"


def stated_truth(truth: pd.DataFrame, schema: AttributeSchema) -> pd.DataFrame:
    """What the reports of a generated cohort state, one row per kidney and stated attribute.

    A class that a diameter decides is taken from the rounded diameter in the report, which is all that a reader has.

    Args:
        truth: Table `truth`: a column per attribute, `stated` with the names of those stated, joined by ";", and
            `stated_size_mm`.
        schema: Attributes and classes; those without a column in the truth are left out.

    Returns:
        patient_id, study_id, side, attribute, value.

    Raises:
        DataError: if the truth holds a value that the schema does not know.
    """
    rows = []
    for row in truth.to_dict("records"):
        stated = set(str(row["stated"]).split(";")) if not pd.isna(row["stated"]) else set()
        for attribute in schema.attributes:
            if attribute.name in stated and attribute.name in row:
                rows.append([*(row[name] for name in KIDNEY), attribute.name, _value(attribute, row)])
    frame = pd.DataFrame(rows, columns=[*KEY, "value"])
    for name, value in frame[["attribute", "value"]].drop_duplicates().itertuples(index=False, name=None):
        if value not in schema.classes[name]:
            raise DataError(
                f"truth.parquet says {name} = {value}, which attribute schema {schema.version} does not know "
                f"({', '.join(schema.classes[name])}); make the cohort anew with `make cohort`."
            )
    return frame


def _value(attribute: Attribute, row: Mapping[Any, Any]) -> Any:
    size = row.get("stated_size_mm")
    if attribute.measure is not None and attribute.measure.quantity == "diameter_mm" and not pd.isna(size):
        return attribute.measure.class_of(float(size))
    return row[attribute.name]


def accuracy(
    table: pd.DataFrame,
    truth: pd.DataFrame,
    kidneys: pd.DataFrame,
    groups: dict[str, np.ndarray],
    schema: AttributeSchema,
) -> pd.DataFrame:
    """Rightness of a table by group of patients, attribute and class.

    Args:
        table: Rows of the table `attributes`.
        truth: As `stated_truth` gives it.
        kidneys: The kidneys that were read of.
        groups: Name to a mask over the kidneys.
        schema: Attributes and classes.

    Returns:
        Per group and attribute a row with class "(all)": patients, n (kidneys), stated (by the truth), found (stated by
        the table), right, wrong (another value), missed (found nothing), invented (nothing is stated); recall (right /
        stated), precision (right / found) and silence (share of unstated left unstated) with Wilson's intervals; macro
        F1 over the classes that the truth holds, with its interval over patients and the name of its method. Then a row
        per class. The attribute "(all)" sums over attributes and takes their answers as independent; its macro F1 is
        their mean.
    """
    rows: list[dict[str, object]] = []
    names = [name for name in schema.names if (truth["attribute"] == name).any()]
    answers = {name: (values_of(truth, kidneys, name), values_of(table, kidneys, name)) for name in names}
    for group, mask in groups.items():
        patients = kidneys["patient_id"].to_numpy(dtype=object)[mask]
        per_attribute = [
            _attribute_rows(schema[name], true[mask].to_numpy(), found[mask].to_numpy(), patients)
            for name, (true, found) in answers.items()
        ]
        total = _summed([entries[0] for entries in per_attribute], patients)
        rows += [{"group": group} | row for entries in [[total], *per_attribute] for row in entries]
    return pd.DataFrame(rows).astype(dict.fromkeys(("wrong", "missed", "invented"), "Int64"))


def _attribute_rows(
    attribute: Attribute, true: np.ndarray, found: np.ndarray, patients: np.ndarray
) -> list[dict[str, object]]:
    labels = [*attribute.class_names, NOT_STATED]
    present = [label for label in attribute.class_names if (true == label).any()]
    codes = [np.array([labels.index(value) for value in values], dtype=int) for values in (true, found)]
    chosen = [labels.index(label) for label in present]
    value, interval = float("nan"), UNDEFINED
    if present:
        value = float(f1_score(true, found, labels=present, average="macro", zero_division=0))
        interval = bootstrap(codes[0], codes[1], patients, len(labels), lambda tables: macro_f1_of(tables, chosen))
    stated, spoken = true != NOT_STATED, found != NOT_STATED
    counts = {
        "n": len(true),
        "stated": int(stated.sum()),
        "found": int(spoken.sum()),
        "right": int((stated & (true == found)).sum()),
        "wrong": int((stated & spoken & (true != found)).sum()),
        "missed": int((stated & ~spoken).sum()),
        "invented": int((~stated & spoken).sum()),
    }
    f1: dict[str, object] = {"macro_f1": value, "macro_f1_low": interval.low, "macro_f1_high": interval.high}
    f1["macro_f1_interval"] = interval.method
    rows = [_row(attribute.name, EVERY, counts, patients) | f1]
    for label in attribute.class_names:
        right = int(((true == label) & (found == label)).sum())
        of_class = {"n": len(true), "stated": int((true == label).sum()), "found": int((found == label).sum())}
        rows.append(_row(attribute.name, label, of_class | {"right": right}, patients))
    return rows


def macro_f1_of(tables: np.ndarray, chosen: list[int]) -> np.ndarray:
    """Macro F1 of cross tables [..., truth, found] over those of the chosen classes that a table's truth holds."""
    hits = np.diagonal(tables, axis1=-2, axis2=-1)[..., chosen]
    true = tables.sum(axis=-1)[..., chosen]
    scores = 2 * hits / np.maximum(true + tables.sum(axis=-2)[..., chosen], 1)
    count = (true > 0).sum(axis=-1)
    undefined = np.full(np.shape(count), np.nan)
    return np.divide(np.where(true > 0, scores, 0.0).sum(axis=-1), count, out=undefined, where=count > 0)


def _row(attribute: str, label: str, counts: dict[str, int], patients: np.ndarray) -> dict[str, object]:
    row: dict[str, object] = {"attribute": attribute, "class": label, "patients": len(set(patients)), **counts}
    shares = {"recall": (counts["right"], counts["stated"]), "precision": (counts["right"], counts["found"])}
    if "invented" in counts:
        unstated = counts["n"] - counts["stated"]
        shares["silence"] = (unstated - counts["invented"], unstated)
    for name, (part, whole) in shares.items():
        low, high, _ = wilson(part, whole)
        row |= {name: part / whole if whole else float("nan"), f"{name}_low": low, f"{name}_high": high}
    return row


def _summed(rows: list[dict[str, object]], patients: np.ndarray) -> dict[str, object]:
    names = ("n", "stated", "found", "right", "wrong", "missed", "invented")
    counts = {name: sum(int(str(row[name])) for row in rows) for name in names}
    scores = [float(str(row["macro_f1"])) for row in rows]
    defined = [score for score in scores if np.isfinite(score)]
    mean = float(np.mean(defined)) if defined else float("nan")
    return _row(EVERY, EVERY, counts, patients) | {"macro_f1": mean}
