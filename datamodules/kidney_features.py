"""Features of kidneys by an image encoder that stays as it is: a table that training reads in the place of images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from datamodules.errors import DataError
from datamodules.files import read_parquet, write_parquet
from datamodules.reports.sides import KIDNEY


def write_features(path: Path, kidneys: pd.DataFrame, features: np.ndarray) -> None:
    """Write the features of kidneys.

    Args:
        path: Parquet file.
        kidneys: Rows with patient_id, study_id, side.
        features: float32 [kidneys, F].
    """
    columns = pd.DataFrame(features, columns=[f"feature_{number}" for number in range(features.shape[1])])
    write_parquet(path, pd.concat([kidneys[KIDNEY].reset_index(drop=True), columns], axis=1))


def read_features(path: Path, kidneys: pd.DataFrame) -> np.ndarray:
    """The features of kidneys, float32 [kidneys, F]; no number where it is not trained or selected on.

    Args:
        path: Table that `write_features` wrote.
        kidneys: Rows with patient_id, study_id, side and part.

    Raises:
        DataError: if the table lacks a kidney to train or select on.
    """
    table = read_parquet(path)[0]
    names = [name for name in table.columns if name not in KIDNEY]
    found = kidneys[KIDNEY].astype(str).merge(table.astype(dict.fromkeys(KIDNEY, str)), on=KIDNEY, how="left")
    values = found[names].to_numpy(dtype=np.float32)
    absent = ~np.isfinite(values).all(axis=1) & (kidneys["part"] != "test").to_numpy()
    if absent.any():
        first = found[KIDNEY].to_numpy()[absent][0]
        raise DataError(
            f"{path.name} has no features of {int(absent.sum())} kidneys, first {' / '.join(first)}; run "
            "`make pretrain STAGES=alignment` again, which computes what is missing."
        )
    return values


@dataclass(frozen=True)
class Rows:
    """Gives the row of a kidney in an array, as a sample draws it.

    Args:
        values: float32 [kidneys, F].
    """

    values: np.ndarray

    def __call__(self, kidney: int, seed: int) -> torch.Tensor:
        """float32 [F] of a row of the kidney table; the seed of the sample changes nothing."""
        return torch.from_numpy(self.values[kidney])
