from __future__ import annotations

import pandas as pd
import pytest

from datamodules.phantoms.facts import Patient
from datamodules.phantoms.phantom_source import DemoSource
from datamodules.volumes.contract import PreprocessingContract


@pytest.fixture(scope="session")
def source() -> DemoSource:
    return DemoSource(1000, 42)


@pytest.fixture(scope="session")
def patients(source: DemoSource) -> list[Patient]:
    return [source.patient(patient_id) for patient_id in source.patient_ids()]


@pytest.fixture(scope="session")
def tables(source: DemoSource, patients: list[Patient]) -> dict[str, pd.DataFrame]:
    """All tables of 1,000 patients; no image is rendered."""
    parts = [source.rows(patient) for patient in patients]
    return source.finish({name: pd.DataFrame([row for part in parts for row in part[name]]) for name in parts[0]})


@pytest.fixture(scope="session")
def contract() -> PreprocessingContract:
    return PreprocessingContract(grid=(40, 48, 48))
