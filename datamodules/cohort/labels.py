"""From a task's definition to the targets of patients."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from datamodules.batch import MISSING
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.columns import ENDPOINTS
from datamodules.cohort.study_times import index_kidneys
from datamodules.cohort.tables import TABLES
from datamodules.errors import DataError


@dataclass(frozen=True)
class Label:
    """What a task predicts and for whom.

    Args:
        name: Name of the task.
        column: Column of the label in `table`; classification only.
        classes: Values of the column in the order of the class indices, 0 and 1 of a column of true and false;
            classification only.
        class_names: Words for the classes, for tables and figures.
        table: `patients`, or `kidneys` for a label of the index kidney.
        eligible: Columns of `patients` with the values that a patient must have, for example `{malignancy: [1]}`;
            a patient whose value is missing is not eligible.
        kind: `classification`, where class indices are targets, or `survival`, where times to an event are.
        endpoint: The endpoint that a survival task is trained and selected on: rfs, dss or os; all that are known of
            a patient are tested.
        intervals: Intervals of the time grid that discrete-time survival models predict on.
        groups: By class the values of the column that it holds, where a class is several of them, or a text in the
            words of its source; case and punctuation are no matter. Who has a value of no class is left out.
        ordered: Whether the classes stand in an order; agreement then counts how far apart two of them are.
    """

    name: str
    column: str = ""
    classes: list[int | str] = field(default_factory=list)
    class_names: list[str] = field(default_factory=list)
    table: Literal["patients", "kidneys"] = "patients"
    eligible: dict[str, list[int | str]] = field(default_factory=dict)
    kind: Literal["classification", "survival"] = "classification"
    endpoint: str = ""
    intervals: int = 10
    groups: dict[str, list[int | str]] = field(default_factory=dict)
    ordered: bool = True

    def __post_init__(self) -> None:
        columns = [column.name for column in TABLES["patients"].columns]
        unknown = sorted(set(self.eligible) - set(columns))
        if unknown:
            raise DataError(f"Task {self.name}: eligibility names {unknown}; the columns of patients are {columns}.")
        if self.kind == "survival":
            self._check_survival()
        else:
            self._check_classes()

    def _check_survival(self) -> None:
        if self.endpoint not in ENDPOINTS or self.classes or self.column:
            raise DataError(
                f"Task {self.name}: endpoint {self.endpoint!r}, column {self.column!r} and {len(self.classes)} classes "
                f"were found; a survival task has one endpoint of {', '.join(ENDPOINTS)}, no column and no classes."
            )
        if self.intervals < 2:
            raise DataError(f"Task {self.name}: {self.intervals} time intervals were found; expected at least 2.")

    def _check_classes(self) -> None:
        known = [column.name for column in TABLES[self.table].columns]
        if self.column not in known:
            raise DataError(f"Task {self.name}: column {self.column!r} is not in {self.table}; it has {known}.")
        if len(self.classes) < 2 or len(self.classes) != len(self.class_names):
            raise DataError(
                f"Task {self.name}: {len(self.classes)} classes and {len(self.class_names)} class names were found; "
                "expected at least two, and a name for each."
            )
        if self.endpoint:
            raise DataError(f"Task {self.name}: endpoint {self.endpoint!r} was found; only survival tasks have one.")
        if self.groups:
            self._check_groups()

    def _check_groups(self) -> None:
        if sorted(self.groups) != sorted(map(str, self.classes)):
            raise DataError(f"Task {self.name}: groups name {list(self.groups)}; the classes are {self.classes}.")
        every = [plain_words(value) for values in self.groups.values() for value in values]
        twice = sorted({value for value in every if every.count(value) > 1})
        if twice:
            raise DataError(f"Task {self.name}: {', '.join(twice)} stands in two groups; a value has one class.")

    def codes(self) -> dict[str, int]:
        """Class index by the value of the column, as `plain_words` writes it."""
        groups = self.groups or {str(value): [value] for value in self.classes}
        return {plain_words(value): k for k, name in enumerate(self.classes) for value in groups[str(name)]}

    @property
    def outcome(self) -> str:
        """Column of `targets` that folds are balanced by."""
        return "target" if self.kind == "survival" else self.column


def plain_words(value: int | str) -> str:
    """A value without case and punctuation: `Clear-cell_RCC` becomes `clear cell rcc`."""
    return " ".join(re.findall(r"[a-z0-9]+", str(value).lower()))


def _of_index_kidney(cohort: Cohort, patients: pd.DataFrame, column: str) -> pd.Series:
    index = index_kidneys(cohort).drop_duplicates("patient_id").set_index("patient_id")
    return patients["patient_id"].map(index[column])


def targets(cohort: Cohort, label: Label) -> pd.DataFrame:
    """One row per eligible patient of whom something is known and whose index kidney was seen before treatment.

    Returns:
        The columns of `Cohort.patients()` and `target` (int): the class index; of a survival task 1 where the event of
        its endpoint was observed, 0 where it was censored, -100 where that endpoint is not known but another one is.
        Survival tasks also have `<endpoint>_known` (bool) of every endpoint; only where it is true do
        `<endpoint>_months` and `<endpoint>_event` count.

    Raises:
        DataError: if a value is not one of the label's classes and these are no groups, or nobody is left.
    """
    patients = _eligible(cohort, label)
    known = _survival(patients, label) if label.kind == "survival" else _classes(cohort, patients, label)
    if known.empty or (label.kind == "survival" and not known[f"{label.endpoint}_known"].any()):
        wanted = f"the endpoint {label.endpoint}" if label.kind == "survival" else f"a value of {label.column}"
        raise DataError(
            f"Task {label.name}: no patient of cohort {cohort.info.name} has {wanted}"
            f"{' among those eligible' if label.eligible else ''}; choose another task."
        )
    return known.reset_index(drop=True)


def _classes(cohort: Cohort, patients: pd.DataFrame, label: Label) -> pd.DataFrame:
    found, strange = _coded(cohort, patients, label)
    if len(strange) and not label.groups:
        raise DataError(
            f"Task {label.name}: {label.column} holds {sorted(set(strange))}; expected one of {label.classes}."
        )
    known = patients[found.notna().to_numpy()].copy()
    known["target"] = found.dropna().astype(int).to_numpy()
    return known


def _coded(cohort: Cohort, patients: pd.DataFrame, label: Label) -> tuple[pd.Series, pd.Series]:
    """Class index of every patient, missing where the value is not known or of no class, and the values of no class."""
    values = patients[label.column] if label.table == "patients" else _of_index_kidney(cohort, patients, label.column)
    if pd.api.types.is_bool_dtype(values.dtype):
        values = values.astype("Int64")  # a statement and its contrary are the classes 1 and 0
    values, codes = values.astype(object), label.codes()
    found = values.map(lambda value: codes.get(plain_words(value)), na_action="ignore")
    return found, values[values.notna() & found.isna()].map(str)


def of_no_class(cohort: Cohort, label: Label) -> dict[str, int]:
    """Patients whose value is in no group of a label, by that value, the most frequent first; none without groups.

    Args:
        cohort: The cohort.
        label: What is predicted.
    """
    if not label.groups:
        return {}
    _, strange = _coded(cohort, _eligible(cohort, label), label)
    return {str(name): int(count) for name, count in strange.value_counts().items()}


def _eligible(cohort: Cohort, label: Label) -> pd.DataFrame:
    patients = cohort.patients()
    patients = patients[patients["patient_id"].isin(index_kidneys(cohort)["patient_id"])]
    for column, values in label.eligible.items():
        patients = patients[patients[column].isin(values).fillna(False)]
    return patients


def _survival(patients: pd.DataFrame, label: Label) -> pd.DataFrame:
    """Endpoints with time and event; recurrence-free survival is not defined where metastases were there before."""
    patients = patients.copy()
    for name in ENDPOINTS:
        known = patients[f"{name}_months"].notna() & patients[f"{name}_event"].notna()
        if name == "rfs":
            known &= ~(patients["stage_pm"] == "1").fillna(False)
        patients[f"{name}_known"] = known.to_numpy(dtype=bool)
    event = patients[f"{label.endpoint}_event"].fillna(False).astype(int)
    patients["target"] = event.where(patients[f"{label.endpoint}_known"], MISSING).astype(int)
    return patients[patients[[f"{name}_known" for name in ENDPOINTS]].any(axis=1)]


def survival_arrays(patients: pd.DataFrame) -> dict[str, np.ndarray]:
    """The endpoints of patients as the batch holds them.

    Args:
        patients: Rows of `targets` of a survival task.

    Returns:
        time_months float32 [N, 3], event bool [N, 3], known bool [N, 3] in the order rfs, dss, os; time 0 and no event
        where an endpoint is not known.
    """
    known = patients[[f"{name}_known" for name in ENDPOINTS]].to_numpy(dtype=bool)
    months = patients[[f"{name}_months" for name in ENDPOINTS]].fillna(0.0).to_numpy(dtype=np.float32)
    event = patients[[f"{name}_event" for name in ENDPOINTS]].fillna(False).to_numpy(dtype=bool)
    return {"time_months": np.where(known, months, np.float32(0)), "event": event & known, "known": known}


def time_grid(months: np.ndarray, event: np.ndarray, intervals: int) -> list[float]:
    """Cut points of the time axis at quantiles of the Kaplan-Meier curve (Kvamme and Borgan, 2021), by pycox.

    Args:
        months: Times of training patients [N].
        event: Whether each was observed [N].
        intervals: Intervals wanted.

    Returns:
        Rising times in months, the first 0; fewer than wanted where times are tied.
    """
    # Importing pycox takes more than a second, which only survival tasks need.
    from pycox.preprocessing.label_transforms import LabTransDiscreteTime

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="cuts are not unique")
        transform = LabTransDiscreteTime(intervals + 1, scheme="quantiles").fit(months.astype(np.float64), event)
    return [float(value) for value in np.unique(transform.cuts)]
