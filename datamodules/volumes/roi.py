"""The region of interest of one kidney as arrays: the image of a series, and the label map of a study."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Volume:
    """The ROI of one kidney in one series.

    Args:
        study_id: Examination.
        series_id: Series.
        side: left or right.
        phase: Contrast phase.
        image: int16 [D, H, W] in HU on the contract's grid.
    """

    study_id: str
    series_id: str
    side: str
    phase: str
    image: np.ndarray


@dataclass(frozen=True)
class Mask:
    """The label map of one kidney ROI, shared by the series of a study.

    Args:
        study_id: Examination.
        side: left or right.
        labels: uint8 [D, H, W] of `datamodules.anatomy.tissues.Tissue` codes on the contract's grid.
    """

    study_id: str
    side: str
    labels: np.ndarray
