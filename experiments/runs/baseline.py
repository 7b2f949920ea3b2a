"""What is measured inside which mask: the settings of radiomics, named by their hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.study_times import index_kidneys
from datamodules.errors import DataError
from datamodules.plain_yaml import read_yaml

_MALE = {"male": 1.0, "female": 0.0}
_KIDNEY_COLUMNS = ("lesion_count",)
FAMILIES = ("morphology", "statistics", "glcm", "glrlm", "glszm", "ngtdm")
"""Families of features by the names of IBSI that mirp takes."""


def _families() -> dict[str, list[str]]:
    return {"lesion": ["morphology", "statistics", "glcm", "glszm"], "kidney": ["morphology", "statistics"]}


@dataclass(frozen=True)
class RadiomicsSettings:
    """Processing and features after the Image Biomarker Standardisation Initiative (Zwanenburg et al., Radiology 2020).

    Image and mask are resampled to cubes, image by cubic splines and mask by linear interpolation at half, then the
    mask is cut to a range of intensities for all but the shape, and grey levels are bins of fixed width from the lower
    end of that range. Textures are of three-dimensional neighbourhoods, merged over directions.

    Args:
        masks: Families by mask: `lesion`, the index lesion of the kidney, and `kidney`, the organ with its lesions.
        spacing_mm: Edge of a voxel after resampling, in mm; 0 leaves the grid as it is.
        range_hu: Lower and upper end of the intensities that count, in HU.
        bin_width_hu: Width of a grey level, in HU.
        least_voxels: A mask with fewer voxels than this of the resampled size is not measured.

    Raises:
        DataError: if a mask or family is unknown, or a number is out of range.
    """

    masks: dict[str, list[str]] = field(default_factory=_families)
    spacing_mm: float = 3.0
    range_hu: tuple[float, float] = (-200.0, 300.0)
    bin_width_hu: float = 25.0
    least_voxels: int = 8

    def __post_init__(self) -> None:
        # YAML gives lists and whole numbers; the hash wants one type.
        low, high = (float(value) for value in self.range_hu)
        object.__setattr__(self, "range_hu", (low, high))
        object.__setattr__(self, "spacing_mm", float(self.spacing_mm))
        object.__setattr__(self, "bin_width_hu", float(self.bin_width_hu))
        object.__setattr__(self, "masks", {name: list(families) for name, families in self.masks.items()})
        unknown = [name for name in self.masks if name not in _families()]
        families = {family for chosen in self.masks.values() for family in chosen}
        unknown += sorted(families - set(FAMILIES))
        if unknown or not families:
            raise DataError(
                f"Radiomics: {', '.join(unknown) or 'nothing'} was asked for; expected masks of "
                f"{', '.join(_families())} with families of {', '.join(FAMILIES)}."
            )
        if not (low < high and self.spacing_mm >= 0 and self.bin_width_hu > 0 and self.least_voxels > 0):
            raise DataError(
                f"Radiomics: range {low:g} to {high:g} HU, voxels of {self.spacing_mm:g} mm, bins of "
                f"{self.bin_width_hu:g} HU, at least {self.least_voxels} voxels; expected a rising range, the others "
                "above 0."
            )

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that name the settings."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    @classmethod
    def read(cls, path: Path) -> RadiomicsSettings:
        """Settings of a YAML file, under `baseline.radiomics`.

        Raises:
            DataError: if the file is not such a file.
        """
        content = read_yaml(path)
        try:
            return cls(**content["baseline"]["radiomics"])
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{path.name}: {error}; expected masks, spacing_mm, range_hu, bin_width_hu and least_voxels under "
                "baseline.radiomics."
            ) from error


@dataclass(frozen=True)
class BaselineConfig:
    """What a model reads besides or in the place of frozen features, and how it is fitted.

    Args:
        columns: Columns of the cohort's tables.
        radiomics: Settings of radiomics, for a model that reads them; None for others.
        model: `linear`, a logistic or Cox regression, or `boosting` of trees.
        prompts: Whether a linear model on frozen features starts from the prompts of the task, by the attribute heads
            beside the exported encoder.
    """

    columns: list[str] = field(default_factory=list)
    radiomics: RadiomicsSettings | None = None
    model: str = "linear"
    prompts: bool = False


def clinical_values(cohort: Cohort, patients: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Clinical variables as numbers.

    Args:
        cohort: The cohort.
        patients: Rows of its table `patients`.
        columns: Columns of that table, or of the index kidney; of several studies the mean.

    Returns:
        float64, one row per patient in the same order, NaN where missing; sex is 1 for male and 0 for female.
    """
    index = index_kidneys(cohort).groupby("patient_id")
    values = {}
    for name in columns:
        if name in _KIDNEY_COLUMNS:
            found = patients["patient_id"].map(index[name].mean())
        else:
            found = patients[name].map(_MALE) if name == "sex" else patients[name]
        values[name] = found.astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
    return pd.DataFrame(values)
