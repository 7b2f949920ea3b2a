"""A cohort for baselines that read tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def sized_root(tiny_copy: Path) -> Path:
    """The tiny cohort with sizes and ages, some of them missing."""
    path = tiny_copy / "patients.parquet"
    patients = pd.read_parquet(path)
    rng = np.random.default_rng(0)
    size = 30 + 10 * patients["malignancy"].to_numpy(dtype=float) + rng.normal(0, 12, len(patients))
    patients["tumor_size_mm"] = pd.array(np.clip(size, 5, 200).round(1), dtype="Float64")
    patients.loc[::7, "tumor_size_mm"] = pd.NA
    patients["age_years"] = pd.array(rng.uniform(40, 80, len(patients)).round(1), dtype="Float64")
    patients.to_parquet(path)
    return tiny_copy
