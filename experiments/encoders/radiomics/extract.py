"""Features of one volume inside one mask, by mirp."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd

from datamodules.anatomy.nephrometry.kidneys import find_lesions
from datamodules.anatomy.nephrometry.mask_geometry import bounding_slices
from datamodules.anatomy.tissues import KIDNEY_WITH_LESION, Tissue
from datamodules.errors import DataError
from experiments.runs.baseline import RadiomicsSettings

_PREFIXES = ("morph_", "stat_", "cm_", "rlm_", "szm_", "ngt_")
_READ_INTENSITIES = ("morph_com", "morph_integ_int", "morph_moran_i", "morph_geary_c")
_MARGIN_VOXELS = 4
"""Around the mask when the volume is cut to it: the reach of the cubic splines that resample it."""


def check_library() -> None:
    """Refuse to begin without mirp.

    Raises:
        DataError: if it is not installed.
    """
    if importlib.util.find_spec("mirp") is None:
        raise DataError(
            "Radiomics are measured by mirp, which is not installed; expected the extra `radiomics`: run `make setup`, "
            "or `pip install --editable .[radiomics]` and `pip install --no-deps --group radiomics-no-deps`."
        )


@contextmanager
def quiet_library() -> Iterator[None]:
    """mirp as it expects to run: with pandas' copy-on-write, which is its rule from version 3, and without its log."""
    root, quiet = logging.getLogger(), logging.NullHandler()
    root.addHandler(quiet)  # mirp configures the root logger, unless somebody did before
    try:
        with warnings.catch_warnings(), pd.option_context("mode.copy_on_write", True):
            # Either warns of a feature that is not defined: `mask_features` gives NaN and the command counts it.
            warnings.filterwarnings("ignore", message=".*to be assigned to the same ?bin.*")
            warnings.filterwarnings("ignore", category=RuntimeWarning, module="mirp")
            yield
    finally:
        root.removeHandler(quiet)


def organ_mask(labels: np.ndarray) -> np.ndarray:
    """The kidney as an organ with sinus, collecting system and lesions, bool [D, H, W]."""
    return np.isin(labels, (*KIDNEY_WITH_LESION, Tissue.RENAL_SINUS, Tissue.COLLECTING_SYSTEM))


def lesion_mask(labels: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """The index lesion, the largest tumour or else the largest cyst, bool [D, H, W]; empty where there is none."""
    lesions = find_lesions(labels, spacing_mm)
    return lesions[0].mask if lesions else np.zeros(labels.shape, dtype=bool)


def measurable(image: np.ndarray, mask: np.ndarray, spacing_mm: tuple[float, ...], settings: RadiomicsSettings) -> bool:
    """Whether a mask is large enough, also within the range of intensities."""
    low, high = settings.range_hu
    inside = image[mask]
    counted = int(((inside >= low) & (inside <= high)).sum())
    voxel = float(np.prod(spacing_mm))
    return counted * voxel >= settings.least_voxels * (settings.spacing_mm**3 or voxel)


def mask_features(
    image: np.ndarray,
    mask: np.ndarray,
    spacing_mm: tuple[float, float, float],
    families: list[str],
    settings: RadiomicsSettings,
) -> dict[str, float]:
    """Features of an image inside a mask, as mirp computes them; call it within `quiet_library`.

    The grid of the resampling is centred on the box around the mask, so that features do not depend on its place.

    Args:
        image: HU [D, H, W].
        mask: bool [D, H, W], not empty.
        spacing_mm: Distance between voxel centres, D, H, W.
        families: Families of features.
        settings: Processing.

    Returns:
        Values by mirp's name without its processing suffix, NaN where a feature is not defined.
    """
    from mirp import extract_features
    from mirp.data_import.import_image import import_image
    from mirp.data_import.import_mask import import_mask

    box = bounding_slices(mask, margin=_MARGIN_VOXELS)
    (scan,) = import_image(np.ascontiguousarray(image[box], dtype=np.float32), image_modality="ct")
    (region,) = import_mask(np.ascontiguousarray(mask[box], dtype=np.uint8))
    scan.image_spacing = region.image_spacing = tuple(float(value) for value in spacing_mm)
    (table,) = extract_features(
        image=scan,
        mask=region,
        by_slice=False,
        new_spacing=settings.spacing_mm or None,
        resegmentation_intensity_range=list(settings.range_hu),
        base_feature_families=families,
        base_discretisation_method="fixed_bin_size",
        base_discretisation_bin_width=settings.bin_width_hu,
    )
    names = [str(name) for name in table.columns if str(name).startswith(_PREFIXES)]
    values = pd.to_numeric(table[names].iloc[0], errors="coerce").astype(float)
    values = values.where(np.isfinite(values))
    return {_short(name): float(values[name]) for name in names}


def shape_features(
    mask: np.ndarray, spacing_mm: tuple[float, float, float], settings: RadiomicsSettings
) -> dict[str, float]:
    """Morphology of a mask alone; call it within `quiet_library`.

    The four morphological features that read intensities are left out: centre of mass shift, integrated intensity,
    Moran's I and Geary's C, of which the last two take longer than everything else together.

    Args:
        mask: bool [D, H, W], not empty.
        spacing_mm: Distance between voxel centres, D, H, W.
        settings: Processing.
    """
    # Without a voxel in the range of intensities mirp measures the shape and nothing else.
    outside = np.full(mask.shape, settings.range_hu[0] - 1000.0, dtype=np.float32)
    found = mask_features(outside, mask, spacing_mm, ["morphology"], settings)
    return {name: value for name, value in found.items() if name not in _READ_INTENSITIES}


def _short(name: str) -> str:
    """mirp's name without what is the same in every feature of a family: `cm_contrast_d1_3d_v_mrg_fbs_w25.0`."""
    for part in ("_d1_3d_v_mrg_fbs", "_3d_v_mrg_fbs", "_3d_fbs"):
        name = name.split(part)[0]
    return name
