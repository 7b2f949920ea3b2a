from __future__ import annotations

import numpy as np
import pytest

from datamodules.anatomy.nephrometry import find_lesions, separate_kidneys
from datamodules.anatomy.nephrometry.measures import measures
from datamodules.anatomy.tissues import Tissue
from tests.datamodules.kidney_phantom import ellipsoid, grid, kidney

SPACING = (2.0, 2.0, 2.0)
TUMOR = (0.0, 0.0, -30.0)


def pair(gap_mm: float = 40.0, **options: object) -> np.ndarray:
    """A left kidney with a tumour and a right one, `gap_mm` between their fields."""
    left, right = kidney(SPACING, TUMOR, **options), kidney(SPACING, side="right", **options)  # type: ignore[arg-type]
    gap = np.zeros((*left.shape[:2], int(gap_mm / SPACING[2])), dtype=np.uint8)
    return np.concatenate([left, gap, right], axis=2)


def test_two_kidneys_are_told_apart_by_position() -> None:
    left, right = separate_kidneys(pair(), SPACING)
    assert (left.side, right.side, left.side_source) == ("left", "right", "position")
    assert [lesion.kind for lesion in left.lesions] == ["tumor"]
    assert right.lesions == ()
    assert left.index_lesion is not None
    assert left.index_lesion.volume_ml == pytest.approx(4 / 3 * np.pi * 15**3 / 1000, rel=0.02)


def test_mirror_image_swaps_the_sides() -> None:
    left, right = separate_kidneys(pair()[:, :, ::-1], SPACING)
    assert len(left.lesions) == 0
    assert len(right.lesions) == 1


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("drawn_sinus", [True, False])
def test_single_kidney_has_its_side_from_the_hilum_or_the_midline(side: str, drawn_sinus: bool) -> None:
    labels = kidney(SPACING, side=side, drawn_sinus=drawn_sinus)
    if not drawn_sinus:
        (alone,) = separate_kidneys(labels, SPACING)
        assert (alone.side, alone.side_source) == (side, "hilum")
    midline = 200.0 if side == "left" else -50.0
    (placed,) = separate_kidneys(labels, SPACING, midline)
    assert (placed.side, placed.side_source) == (side, "position")


def test_horseshoe_kidney_is_cut_at_the_isthmus() -> None:
    labels = pair(gap_mm=2.0, drawn_sinus=False)
    middle = labels.shape[2] // 2
    labels[20:26, 30:36, 30 : labels.shape[2] - 30] = Tissue.KIDNEY
    left, right = separate_kidneys(labels, SPACING)
    assert left.fused
    assert right.fused
    assert right.origin[2] + 1 == pytest.approx(middle, abs=8)
    assert len(left.lesions) == 1
    assert left.volume_ml((Tissue.KIDNEY,)) == pytest.approx(right.volume_ml((Tissue.KIDNEY,)), rel=0.15)


def test_lesion_that_lost_its_kidney_goes_whole_to_the_nearest() -> None:
    labels = pair()
    labels[2:8, 2:8, 2:8] = Tissue.TUMOR
    left, right = separate_kidneys(labels, SPACING)
    assert [round(lesion.volume_ml, 2) for lesion in left.lesions][1] == pytest.approx(216 * 0.008, abs=0.01)
    assert right.lesions == ()


def test_tumour_between_two_pieces_of_one_kidney_keeps_them_together() -> None:
    labels = pair(drawn_sinus=False)
    points = grid(SPACING)
    band = np.abs(points[..., 0]) < 12
    left = labels[:, :, : points.shape[2]]
    left[band & (left == Tissue.KIDNEY)] = Tissue.TUMOR
    first, second = separate_kidneys(labels, SPACING)
    assert first.volume_ml((Tissue.KIDNEY,)) > 60
    assert second.lesions == ()


def test_crumbs_are_no_lesions_and_no_kidneys() -> None:
    labels = pair()
    labels[40, 32, 20] = Tissue.CYST
    labels[1:3, 1:3, 1:3] = Tissue.KIDNEY
    kidneys = separate_kidneys(labels, SPACING)
    assert [len(found.lesions) for found in kidneys] == [1, 0]
    assert separate_kidneys(np.zeros((20, 20, 20), dtype=np.uint8), SPACING) == []


def test_fluid_inside_a_tumour_belongs_to_it_and_a_leaning_cyst_does_not() -> None:
    points = grid(SPACING)
    labels = kidney(SPACING, TUMOR, 20.0)
    labels[ellipsoid(points, TUMOR, 14.0)] = Tissue.CYST
    cystic = find_lesions(labels, SPACING)
    assert [lesion.kind for lesion in cystic] == ["tumor"]
    assert cystic[0].volume_ml == pytest.approx(33.5, rel=0.03)
    labels = kidney(SPACING, TUMOR, 15.0)
    labels[ellipsoid(points, (27.0, 0.0, -25.0), 13.0)] = Tissue.CYST
    assert [lesion.kind for lesion in find_lesions(labels, SPACING)] == ["tumor", "cyst"]


def test_tumour_comes_before_a_larger_cyst() -> None:
    labels = kidney(SPACING, TUMOR, 10.0)
    labels[ellipsoid(grid(SPACING), (40.0, 0.0, -20.0), 18.0)] = Tissue.CYST
    (found,) = separate_kidneys(labels, SPACING, midline_mm=500.0)
    assert found.index_lesion is not None
    assert found.index_lesion.kind == "tumor"


def test_measures_are_in_millimetres_and_patient_axes() -> None:
    (found,) = separate_kidneys(kidney(SPACING, (20.0, 10.0, -15.0), 8.0), SPACING, midline_mm=500.0)
    row = measures(found)
    assert row["tumor_volume_ml"] == pytest.approx(4 / 3 * np.pi * 8**3 / 1000, rel=0.05)
    assert row["lesion_diameter_mm"] == pytest.approx(16.0, abs=2.0)
    offset = [row[f"lesion_offset_{axis}_mm"] for axis in "dhw"]
    assert offset == pytest.approx([20.0, 10.0, -15.0], abs=1.5)
