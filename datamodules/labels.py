"""From a task's definition to the targets of patients."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

from datamodules.cohort import Cohort
from datamodules.errors import DataError
from datamodules.schema import TABLES


@dataclass(frozen=True)
class Label:
    """What a task predicts and for whom.

    Args:
        name: Name of the task.
        column: Column of the label in `table`.
        classes: Values of the column in the order of the class indices.
        class_names: Words for the classes, for tables and figures.
        table: `patients`, or `kidneys` for a label of the index kidney.
        eligible: Columns of `patients` with the values that a patient must have, for example `{malignancy: [1]}`;
            a patient whose value is missing is not eligible.
        kind: `classification`, where class indices are targets.
    """

    name: str
    column: str
    classes: list[int | str]
    class_names: list[str]
    table: Literal["patients", "kidneys"] = "patients"
    eligible: dict[str, list[int | str]] = field(default_factory=dict)
    kind: Literal["classification"] = "classification"

    def __post_init__(self) -> None:
        known = [column.name for column in TABLES[self.table].columns]
        if self.column not in known:
            raise DataError(f"Task {self.name}: column {self.column!r} is not in {self.table}; it has {known}.")
        if len(self.classes) < 2 or len(self.classes) != len(self.class_names):
            raise DataError(
                f"Task {self.name}: {len(self.classes)} classes and {len(self.class_names)} class names were found; "
                "expected at least two, and a name for each."
            )
        columns = [column.name for column in TABLES["patients"].columns]
        unknown = sorted(set(self.eligible) - set(columns))
        if unknown:
            raise DataError(f"Task {self.name}: eligibility names {unknown}; the columns of patients are {columns}.")


def _of_index_kidney(cohort: Cohort, patients: pd.DataFrame, column: str) -> pd.Series:
    kidneys = cohort["kidneys"]
    index = kidneys[kidneys["is_index"]].drop_duplicates("patient_id").set_index("patient_id")
    return patients["patient_id"].map(index[column])


def targets(cohort: Cohort, label: Label) -> pd.DataFrame:
    """One row per eligible patient with a known label.

    Returns:
        The columns of `Cohort.patients()` and `target`, the class index (int).

    Raises:
        DataError: if a value is not one of the label's classes, or nobody is left.
    """
    patients = cohort.patients()
    for column, values in label.eligible.items():
        patients = patients[patients[column].isin(values).fillna(False)]
    found = patients[label.column] if label.table == "patients" else _of_index_kidney(cohort, patients, label.column)
    known = patients[found.notna().to_numpy()].copy()
    codes = {value: number for number, value in enumerate(label.classes)}
    strange = sorted({str(value) for value in found.dropna() if value not in codes})
    if strange:
        raise DataError(f"Task {label.name}: {label.column} holds {strange}; expected one of {label.classes}.")
    known["target"] = [codes[value] for value in found.dropna()]
    if known.empty:
        raise DataError(
            f"Task {label.name}: no patient of cohort {cohort.info.name} has a value of {label.column}"
            f"{' among those eligible' if label.eligible else ''}; choose another task."
        )
    return known.reset_index(drop=True)
