"""A scan and a mask that do not belong together are refused with the figures."""

from __future__ import annotations

import numpy as np
import pytest
import torchio as tio

from datamodules.errors import DataError
from datamodules.importers.plausibility import check_tissue
from tests.datamodules.importers.nifti_phantom import AFFINE, labels, scan_hu


def scan(shift: float = 0.0) -> tio.ScalarImage:
    return tio.ScalarImage(tensor=(scan_hu() + shift).astype(np.float32)[None], affine=AFFINE)


def mask(array: np.ndarray) -> dict[str, tio.LabelMap]:
    return {"left kidney": tio.LabelMap(tensor=array[None], affine=AFFINE)}


def test_a_scan_and_its_mask_pass() -> None:
    assert check_tissue(mask(labels()), scan(), "s") == []


@pytest.mark.parametrize(
    ("shift", "cause"),
    [
        (-1024, "intercept was subtracted twice"),
        (-1000, "intercept was subtracted twice"),
        (1024, "intercept was left out"),
        (-160, "do not belong together, or the scan is not in Hounsfield units"),
        (-2048, "not in Hounsfield units"),
        (2048, "not in Hounsfield units"),
    ],
)
def test_hu_that_no_kidney_has_are_refused_with_their_cause(shift: float, cause: str) -> None:
    with pytest.raises(
        DataError, match=rf"s: under the mask of the left kidney .* median of {120 + shift} HU.*{cause}"
    ):
        check_tissue(mask(labels()), scan(shift), "s")


def test_a_mask_in_fat_or_air_is_refused() -> None:
    aside = np.roll(labels(), (0, 12, 0), axis=(0, 1, 2))
    with pytest.raises(DataError, match=r"under the mask of the left kidney"):
        check_tissue(mask(aside), scan(), "s")


def test_a_mask_half_beside_the_kidney_is_noted() -> None:
    aside = np.roll(labels(), 2, axis=1)
    (note,) = check_tissue(mask(aside), scan(), "s")
    assert "of fat, air or bone; check that scan and mask belong together" in note


@pytest.mark.parametrize(("axis", "words"), [(1, "front and back"), (2, "up and down")])
def test_a_mask_that_fits_better_mirrored_is_refused(axis: int, words: str) -> None:
    hu = scan_hu()
    left = labels() * (np.arange(32)[:, None, None] < 16)
    moved = np.roll(hu, 4 if axis == 2 else 0, axis=axis)
    shown = np.roll(left, 4 if axis == 2 else 0, axis=axis)
    flipped = np.flip(shown, axis=axis).copy()
    overlap = np.where(flipped | shown, flipped, 0).astype(np.uint8)
    image = tio.ScalarImage(tensor=moved.astype(np.float32)[None], affine=AFFINE)
    with pytest.raises(DataError, match=rf"where {words} are exchanged|median of -1"):
        check_tissue(mask(overlap), image, "s")


def test_a_kidney_that_only_partly_lies_in_the_scan_is_judged_by_what_does() -> None:
    half = tio.ScalarImage(tensor=scan().data[:, :, :, :10], affine=AFFINE)
    assert check_tissue(mask(labels()), half, "s") == []
