"""A further volume set of a finished cohort: the same volumes as of a fresh build, tables untouched, resumed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from datamodules.importers.builder import add_volumes, build_cohort
from datamodules.importers.index_kidneys import IndexKidneys
from datamodules.importers.records import PatientRecord
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.shards import VolumeSet, volume_folder
from tests.tiny import TinySource

OTHER = PreprocessingContract(grid=(6, 10, 10), axes="SPL")


@pytest.mark.slow
def test_it_holds_the_volumes_of_a_fresh_build_and_changes_nothing_else(tiny_copy: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in tiny_copy.glob("*.parquet")}
    added = add_volumes(TinySource(), Cohort.load(tiny_copy), OTHER, workers=1)
    build_cohort(TinySource(), tmp_path / "fresh", OTHER, workers=1)
    fresh = volume_folder(tmp_path / "fresh", OTHER)
    assert {path.name: path.read_bytes() for path in tiny_copy.glob("*.parquet")} == before
    assert added.contract == OTHER
    keys = ["patient_id", "study_id", "series_id", "side", "crc32"]
    expected = pd.read_parquet(fresh / "index.parquet")[keys].sort_values(keys).reset_index(drop=True)
    found = added.index[keys].sort_values(keys).reset_index(drop=True)
    assert found.astype(str).equals(expected.astype(str))
    assert np.array_equal(added.read(0).shape, OTHER.grid)


@pytest.mark.slow
def test_only_the_index_kidney_is_kept(tiny_copy: Path) -> None:
    added = add_volumes(IndexKidneys(TinySource()), Cohort.load(tiny_copy), OTHER, workers=1)
    assert set(added.index["side"]) == {"left"}
    assert len(added) == len(Cohort.load(tiny_copy)["series"])


class Killed(TinySource):
    """Stops at one patient."""

    def load(self, patient_id: str, contract: PreprocessingContract) -> PatientRecord:
        if patient_id == "I1-000":
            raise KeyboardInterrupt
        return super().load(patient_id, contract)


class Counting(TinySource):
    """Counts what is read."""

    loaded: list[str] = []  # noqa: RUF012 - shared on purpose

    def load(self, patient_id: str, contract: PreprocessingContract) -> PatientRecord:
        self.loaded.append(patient_id)
        return super().load(patient_id, contract)


def test_an_interrupted_call_goes_on(tiny_copy: Path) -> None:
    cohort = Cohort.load(tiny_copy)
    Counting.loaded.clear()
    shown: list[tuple[int, int]] = []
    with pytest.raises(KeyboardInterrupt):
        add_volumes(Killed(), cohort, OTHER, workers=1)
    with pytest.raises(DataError, match="not finished"):
        VolumeSet(volume_folder(tiny_copy, OTHER))
    add_volumes(Counting(), cohort, OTHER, 1, lambda done, total: shown.append((done, total)))
    again = set(Counting.loaded[1:])  # the first call checks that the source is the cohort's
    assert "I1-000" in again
    assert 0 < len(again) < len(cohort["patients"])
    assert shown[0] == (len(cohort["patients"]) - len(again), len(cohort["patients"]))


@pytest.mark.slow
def test_another_source_or_a_failure_is_refused(tiny_copy: Path) -> None:
    cohort = Cohort.load(tiny_copy)
    with pytest.raises(DataError, match="gives other volumes of patient"):
        add_volumes(TinySource(seed=1), cohort, OTHER, workers=1)
    with pytest.raises(DataError, match="The source has no patient"):
        add_volumes(TinySource(per_center=3), cohort, OTHER, workers=1)
    with pytest.raises(DataError, match=r"1 of 60 patients .* have no volumes .*truncated"):
        add_volumes(TinySource(fail=("E1-003",)), cohort, OTHER, workers=1)
    assert len(add_volumes(TinySource(), cohort, OTHER, workers=1)) == 2 * len(cohort["series"])
