"""Whether the table of a run is of the cohort at hand, by the record of data that lies beside it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.identity import CENTRES, REPORTS, VOLUMES, DataIdentity, digests
from datamodules.errors import DataError
from datamodules.files import read_parquet
from datamodules.reports.sides import side_reports
from experiments.runs.run_data import DATA

_KEYS = ["patient", "kidney", "item"]


def records_of(table: Path) -> list[Path]:
    """The records of data that a table rests on.

    Its own, those of its run or folds, of another table beside it, or of the runs that it compares.
    """
    for pattern in (f"{table.stem}-data*.parquet", DATA, f"fold*/{DATA}", "*-data*.parquet", f"*/{DATA}"):
        found = sorted(table.parent.glob(pattern))
        if found:
            return found
    return []


class CohortRecord:
    """What a cohort holds, as records of runs say it: centre and role, volumes and reports by keyed digest.

    Args:
        cohort: The cohort.
    """

    def __init__(self, cohort: Cohort) -> None:
        self.cohort = cohort
        self._seen: set[Path] = set()

    def refuse_other(self, table: Path) -> None:
        """Refuse a table that is not of this cohort.

        Raises:
            DataError: saying what differs, or that the table does not say of what data it is.
        """
        name = f"{table.parent.name}/{table.name}"
        records = records_of(table)
        if not records:
            raise DataError(f"{name} does not say of what data it is; delete it and run its command again.")
        for path in records:
            if path in self._seen:
                continue
            differing = self.differences(DataIdentity.read(path))
            if differing:
                raise DataError(
                    f"{name} is of other data than cohort {self.cohort.info.name} ({', '.join(differing)}); give RUNS= "
                    "and DATA= that belong together, or run its command again."
                )
            self._seen.add(path)

    def differences(self, there: DataIdentity) -> list[str]:
        """What a run used that this cohort does not hold, in words; what it did not use does not count."""
        people = there.rows.loc[there.rows["patient"] != 0, ["patient", "part"]].drop_duplicates()
        known = people["patient"].isin(self._splits.index)
        unknown = people.loc[~known, "patient"].nunique()
        found = [f"{unknown} patients are not in it"] if unknown else []
        found += self._moved(people[known])
        for kind, own in self._held.items():
            used = there.rows[(there.rows["kind"] == kind) & there.rows["patient"].isin(self._splits.index)]
            # A volume lies in the set of its contract; one that is in any set of the cohort is of this cohort.
            kept = used.merge(own, on=[*_KEYS, "value"])
            if len(kept) < len(used):
                found.append(f"{len(used) - len(kept)} {kind} differ")
        return found

    def _moved(self, people: pd.DataFrame) -> list[str]:
        """Who was trained or selected on and is in another split now; folds tell each patient three times."""
        if self.cohort.info.evaluation != "roles":
            return []
        fitted = people[people["part"].isin(("train", "val"))]
        moved = int((self._splits.loc[fitted["patient"]].to_numpy() != fitted["part"].to_numpy()).sum())
        return [f"{moved} patients moved to another split"] if moved else []

    @cached_property
    def _splits(self) -> pd.Series:
        patients = self.cohort.patients()
        return pd.Series(
            patients["split"].astype("string").fillna("").to_numpy(), index=digests(patients["patient_id"])
        )

    @cached_property
    def _held(self) -> dict[str, pd.DataFrame]:
        """Digests of what the cohort holds by kind, as `plan_identity` makes them."""
        patients, texts = self.cohort.patients(), side_reports(self.cohort)
        sets = [read_parquet(path)[0] for path in sorted(self.cohort.root.glob("volumes/*/index.parquet"))]
        volumes = pd.concat(sets, ignore_index=True)
        centres = digests(patients["center"], patients["role"])
        return {
            CENTRES: _rows(digests(patients["patient_id"]), 0, 0, centres),
            REPORTS: _rows(digests(texts["patient_id"]), _kidney(texts), 0, digests(texts["text"].astype(str))),
            VOLUMES: _rows(
                digests(volumes["patient_id"]),
                _kidney(volumes),
                digests(volumes["series_id"], volumes["phase"]),
                volumes["crc32"].to_numpy(dtype=np.int64),
            ),
        }


def _kidney(table: pd.DataFrame) -> np.ndarray:
    return digests(table["study_id"], table["side"])


def _rows(patient: np.ndarray, kidney: np.ndarray | int, item: np.ndarray | int, value: np.ndarray) -> pd.DataFrame:
    rows = pd.DataFrame({"patient": patient, "kidney": kidney, "item": item, "value": value})
    return rows.drop_duplicates()
