from __future__ import annotations

import numpy as np
import pytest

from datamodules.anatomy.nephrometry import Nephrometry, score
from datamodules.anatomy.nephrometry.organ import measure_organ
from datamodules.anatomy.nephrometry.points import a_suffix, e_points, l_points, n_points, r_points
from datamodules.anatomy.tissues import Tissue
from datamodules.errors import DataError
from tests.datamodules.kidney_phantom import ellipsoid, grid, kidney, share_outside

SPACING = (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("points", "value", "expected"),
    [
        (r_points, 40.0, 1),
        (r_points, 40.1, 2),
        (r_points, 69.9, 2),
        (r_points, 70.0, 3),
        (e_points, 0.5, 1),
        (e_points, 0.49, 2),
        (e_points, 0.0, 3),
        (n_points, 7.0, 1),
        (n_points, 6.9, 2),
        (n_points, 4.1, 2),
        (n_points, 4.0, 3),
        (a_suffix, 0.9, "anterior"),
        (a_suffix, 0.5, "x"),
        (a_suffix, 0.1, "posterior"),
    ],
)
def test_thresholds_of_the_article(points: object, value: float, expected: object) -> None:
    assert points(value) == expected  # type: ignore[operator]


@pytest.mark.parametrize(
    ("between", "midline", "expected"),
    [(0.0, False, 1), (0.3, False, 2), (0.51, False, 3), (1.0, False, 3), (0.3, True, 3)],
)
def test_location_points(between: float, midline: bool, expected: int) -> None:
    assert l_points(between, midline) == expected


@pytest.mark.parametrize("distance", [20.0, 25.0, 30.0, 33.0, 40.0])
@pytest.mark.parametrize("drawn_sinus", [True, False])
def test_exophytic_share_is_that_of_the_sphere(distance: float, drawn_sinus: bool) -> None:
    tumor = (30.0, 0.0, -distance)
    found = score(kidney(SPACING, tumor, 15.0, drawn_sinus=drawn_sinus), SPACING, "left")
    assert found.e_fraction == pytest.approx(share_outside(tumor, 15.0), abs=0.1)


def test_sphere_half_out_and_sphere_inside() -> None:
    tumor = (0.0, 0.0, -29.5)
    half = score(kidney(SPACING, tumor, 10.0), SPACING, "left")
    assert share_outside(tumor, 10.0) == pytest.approx(0.5, abs=0.02)
    # The hull spans the tumour's bed by a chord, which takes a sliver from the kidney.
    assert half.e_fraction == pytest.approx(0.5, abs=0.08)
    inside = score(kidney(SPACING, (28.0, 0.0, 0.0), 9.0), SPACING, "left")
    assert (inside.e_fraction, inside.e) == (pytest.approx(0.0, abs=0.01), 3)


def test_large_tumour_that_took_a_pole_is_measured_against_the_kidney_it_took() -> None:
    tumor, radius = (50.0, 0.0, 0.0), 27.0
    found = score(kidney(SPACING, tumor, radius, drawn_sinus=False), SPACING, "left")
    assert found.e_fraction == pytest.approx(share_outside(tumor, radius), abs=0.1)


def test_rim_of_kidney_around_a_tumour_is_not_the_kidney_surface() -> None:
    tumor = (0.0, 0.0, -38.0)
    bare = kidney(SPACING, tumor, 18.0)
    rimmed = bare.copy()
    rim = ellipsoid(grid(SPACING), tumor, 21.0) & (bare == Tissue.UNLABELED)
    rimmed[rim] = Tissue.KIDNEY
    expected = score(bare, SPACING, "left").e_fraction
    assert expected > 0.5
    assert score(rimmed, SPACING, "left").e_fraction == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(("gap", "points"), [(2.0, 3), (5.5, 2), (12.0, 1)])
def test_nearness_is_the_gap_between_the_borders(gap: float, points: int) -> None:
    spacing = (2.0, 2.0, 1.0)
    labels = np.where(kidney(spacing) > 0, np.uint8(Tissue.KIDNEY), np.uint8(0)).astype(np.uint8)
    position = grid(spacing)
    labels[(np.abs(position) < [10.0, 6.0, 5.0]).all(axis=-1)] = Tissue.COLLECTING_SYSTEM
    tumor = (0.0, 0.0, -5.0 - gap - 8.0)
    labels[ellipsoid(position, tumor, 8.0)] = Tissue.TUMOR
    found = score(labels, spacing, "left")
    assert found.n_mm == pytest.approx(gap, abs=1.0)
    assert found.n == points
    assert found.sinus_source == "mask"


def test_tumour_in_the_sinus_is_at_distance_zero() -> None:
    found = score(kidney(SPACING, (0.0, 0.0, 20.0), 12.0), SPACING, "left")
    assert (found.n_mm, found.n) == (0.0, 3)


def test_approximated_sinus_is_the_hollow_of_the_hilum() -> None:
    drawn = measure_organ(kidney(SPACING), SPACING, "left")
    guessed = measure_organ(kidney(SPACING, drawn_sinus=False), SPACING, "left")
    assert (drawn.sinus_source, guessed.sinus_source) == ("mask", "approximated")
    # The flat lid of the hull lies below the round surface that the drawn sinus reaches.
    assert (drawn.sinus & guessed.sinus).sum() / guessed.sinus.sum() > 0.95
    assert (drawn.sinus & guessed.sinus).sum() / drawn.sinus.sum() > 0.6


@pytest.mark.parametrize(
    ("tumor", "radius", "points"),
    [
        ((40.0, 0.0, 0.0), 12.0, 1),
        ((25.0, 0.0, -20.0), 12.0, 2),
        ((12.0, 0.0, -25.0), 5.0, 3),
        ((0.0, 0.0, -25.0), 9.0, 3),
    ],
)
def test_location_between_the_lips_of_the_sinus(tumor: tuple[float, float, float], radius: float, points: int) -> None:
    for sign in (1.0, -1.0):
        found = score(kidney(SPACING, (sign * tumor[0], *tumor[1:]), radius), SPACING, "left")
        assert found.l == points


@pytest.mark.parametrize(("h", "suffix"), [(20.0, "anterior"), (-20.0, "posterior"), (0.0, "x")])
@pytest.mark.parametrize("side", ["left", "right"])
def test_anterior_and_posterior(h: float, suffix: str, side: str) -> None:
    labels = kidney(SPACING, (0.0, h, -15.0), 10.0, side=side)
    assert score(labels, SPACING, "left" if side == "left" else "right").a == suffix


TUMOR = (24.0, 12.0, -22.0)


def same(first: Nephrometry, second: Nephrometry, tolerance_mm: float = 0.01) -> None:
    """Equal scores, but for the voxels: a slice of 3 mm holds .12 of the volume of this tumour."""
    assert first.r_mm == pytest.approx(second.r_mm, abs=tolerance_mm)
    assert first.n_mm == pytest.approx(second.n_mm, abs=tolerance_mm)
    share = 0.005 if tolerance_mm < 0.1 else 0.12
    assert first.e_fraction == pytest.approx(second.e_fraction, abs=share)
    assert first.l_fraction == pytest.approx(second.l_fraction, abs=share)


def test_mirror_images() -> None:
    labels = kidney(SPACING, TUMOR)
    left = score(labels, SPACING, "left")
    right = score(labels[:, :, ::-1], SPACING, "right")
    turned = score(labels[:, ::-1], SPACING, "left")
    upside_down = score(labels[::-1], SPACING, "left")
    for other in (right, turned, upside_down):
        same(left, other)
    assert (left.a, right.a, turned.a, upside_down.a) == ("anterior", "anterior", "posterior", "anterior")


def test_quarter_turns_and_translation() -> None:
    labels = kidney(SPACING, TUMOR)
    found = score(labels, SPACING, "left")
    same(found, score(np.rot90(labels, axes=(1, 2)), SPACING, "left"))
    same(found, score(np.pad(labels, ((7, 0), (0, 5), (3, 9))), SPACING, "left"))
    lying = score(np.rot90(labels, axes=(0, 1)), SPACING, "left")
    # The largest axial diameter of a sphere is the same in any plane.
    same(found, lying)


@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (3.0, 1.5, 1.5), (5.0, 1.5, 1.5)])
def test_other_voxels_give_the_same_score(spacing: tuple[float, float, float]) -> None:
    same(
        score(kidney(SPACING, TUMOR), SPACING, "left"), score(kidney(spacing, TUMOR), spacing, "left"), tolerance_mm=2.5
    )


def test_what_cannot_be_scored_is_refused_in_words() -> None:
    with pytest.raises(DataError, match="no lesion to score"):
        score(kidney(SPACING), SPACING, "left")
    labels = np.zeros((20, 20, 20), dtype=np.uint8)
    labels[5:15, 5:15, 5:15] = Tissue.TUMOR
    with pytest.raises(DataError, match=r"0\.00 ml of parenchyma"):
        score(labels, SPACING, "left")


def test_row_holds_columns_of_the_kidney_table() -> None:
    from datamodules.cohort.tables import TABLES

    row = score(kidney(SPACING, TUMOR), SPACING, "left").row()
    assert set(row) <= {column.name for column in TABLES["kidneys"].columns}
    assert row["renal_source"] == "geometry"
