"""The time of a study, and the one rule of which studies are before treatment and which of them a task reads.

After its tumour was removed a kidney shows no tumour, and what is known of its later course would be read from scans
that were made in the course of it. Times are whole days from the patient's `time_origin`, never dates:

- A study is before treatment when its day is not after `treatment_days`, or where that is missing not after day 0. Of
  patients whose day 0 is surgery that is the treatment itself; of others it is the last day on which a study is before
  treatment in any case.
- A task reads the last study before treatment in which the index kidney was seen, and all of that day.
- Studies before treatment and their reports serve pretraining. Later ones are follow-up and serve nothing, pretraining
  included, as their kidneys may be treated ones and their reports speak of what happened since.
- Of a patient of whom one study states its time, those that do not are of unknown time and serve nothing. Where none
  does, all are taken to be before treatment, and `make data-check` says so.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from datamodules.cohort.cohort import Cohort

STUDY = ["patient_id", "study_id"]


def before_treatment(days: Mapping[str, int | None], treatment_days: int | None) -> set[str]:
    """The studies of one patient that are before treatment, or all where none states its time.

    Args:
        days: Days from `time_origin` of every study; None where not known.
        treatment_days: Days from `time_origin` to the treatment; None where not known, or where day 0 is the treatment.
    """
    day = pd.Series(days, dtype="Int64")
    timed = pd.Series(bool(day.notna().any()), index=day.index)
    last = pd.Series(treatment_days, index=day.index, dtype="Int64")
    return set(day.index[_before(day, timed, last)])


def study_times(cohort: Cohort) -> pd.DataFrame:
    """All studies of a cohort.

    Returns:
        patient_id, study_id, days_from_origin (Int64, missing where not known) and `before` (bool), whether it serves
        tasks and pretraining.
    """
    both = [cohort.columns(name, STUDY).drop_duplicates() for name in ("series", "kidneys")]
    found = pd.concat(both).drop_duplicates(ignore_index=True)
    if "studies" in cohort.tables:
        found = found.merge(cohort["studies"], on=STUDY, how="left")
    else:
        found["days_from_origin"] = pd.array([pd.NA] * len(found), dtype="Int64")
    day = found["days_from_origin"]
    timed = found["patient_id"].isin(found.loc[day.notna(), "patient_id"].unique())
    last = found[["patient_id"]].merge(cohort["patients"][["patient_id", "treatment_days"]], how="left")
    found["before"] = _before(day, timed, last["treatment_days"])
    return found


def _before(day: pd.Series, timed: pd.Series, last: pd.Series) -> np.ndarray:
    """Which studies are before treatment, bool [N].

    Args:
        day: Day of every study, missing where not known.
        timed: Whether any study of its patient states its day.
        last: Day of its patient's treatment, missing where not known, or where day 0 is the treatment.
    """
    early = day.to_numpy(dtype=float, na_value=np.nan) <= last.fillna(0).to_numpy(dtype=float)
    return np.asarray(~timed.to_numpy(dtype=bool) | early)


def rows_before_treatment(cohort: Cohort, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows whose study is before treatment.

    Args:
        cohort: The cohort.
        rows: Rows with patient_id and study_id.
    """
    if "studies" not in cohort.tables:
        return rows
    times = study_times(cohort)
    later = pd.MultiIndex.from_frame(times.loc[~times["before"], STUDY])
    return rows[~pd.MultiIndex.from_frame(rows[STUDY]).isin(later)]


def index_kidneys(cohort: Cohort) -> pd.DataFrame:
    """The kidneys that tasks read: rows of the table `kidneys`, those of the index lesion in the study of its patient.

    A patient who has no such study has no row, and enters no task.
    """
    if "index kidneys" not in cohort.derived:
        cohort.derived["index kidneys"] = _index_kidneys(cohort)
    return cohort.derived["index kidneys"]


def _index_kidneys(cohort: Cohort) -> pd.DataFrame:
    kidneys = cohort["kidneys"]
    index = kidneys[kidneys["is_index"]]
    if "studies" not in cohort.tables:
        return index
    times = study_times(cohort)
    day = index[STUDY].merge(times[times["before"]], on=STUDY, how="left")
    day.index = index.index  # refuses a study that is there twice
    last = day.groupby("patient_id")["days_from_origin"].transform("max")
    read = day["before"].eq(True) & (last.isna() | (day["days_from_origin"] == last).fillna(False))
    return index[read.to_numpy(dtype=bool)]
