"""PADUA and the centrality index on a kidney and spheres whose values follow by hand."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.anatomy.nephrometry import score
from datamodules.anatomy.nephrometry.lesion_scores import score_lesions
from datamodules.anatomy.nephrometry.padua import Padua, size_points
from datamodules.anatomy.tissues import Tissue
from tests.datamodules.kidney_phantom import ellipsoid, grid, kidney

SPACING = (2.0, 2.0, 2.0)
# The kidney has half axes of 55, 25 and 30 mm, its sinus opens at +W between -18 and +18 mm of its length.


@pytest.mark.parametrize(("mm", "points"), [(40.0, 1), (40.1, 2), (70.0, 2), (70.1, 3)])
def test_size_of_the_article_counts_seven_centimetres_as_two(mm: float, points: int) -> None:
    assert size_points(mm) == points


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("tumor", "radius_mm", "expected", "total"),
    [
        # On the upper pole's lateral face, its centre outside: beyond the line, exophytic, lateral, far from the sinus.
        ((40.0, 0.0, -26.0), 8.0, Padua(1, 1, 1, 1, None, 1), (6, 7)),
        # Between the lines on the lateral side, wholly inside.
        ((0.0, 0.0, -14.0), 8.0, Padua(2, 3, 1, 1, None, 1), (9, 10)),
        # At the hilum: it takes the sinus.
        ((0.0, 0.0, 14.0), 10.0, Padua(2, 3, 2, 2, None, 1), (11, 12)),
        # 50 mm wide, its centre below the lower line, more than half of it outside.
        ((-50.0, 0.0, -14.0), 25.0, Padua(1, 1, 1, 1, None, 2), (7, 8)),
    ],
)
def test_padua_of_spheres(
    side: str, tumor: tuple[float, float, float], radius_mm: float, expected: Padua, total: tuple[int, int]
) -> None:
    labels = kidney(SPACING, tumor, radius_mm, side=side)
    (found,) = score_lesions(labels, SPACING, side)  # type: ignore[arg-type]
    assert found.padua == expected
    assert found.padua.total == total


@pytest.mark.parametrize(("gap_mm", "points"), [(0.0, 2), (8.0, 1)])
def test_a_drawn_collecting_system_closes_the_sum(gap_mm: float, points: int) -> None:
    labels = kidney(SPACING, (0.0, 0.0, -6.0 - gap_mm), 8.0)
    calyx = ellipsoid(grid(SPACING), (0, 0, 8.0), 6.0)
    labels[calyx & (labels != Tissue.TUMOR)] = Tissue.COLLECTING_SYSTEM
    (found,) = score_lesions(labels, SPACING, "left")
    assert found.padua is not None
    assert found.padua.collecting_system == points
    assert found.padua.total[0] == found.padua.total[1] == 2 + 3 + 1 + 1 + points + 1


def test_complexity_says_both_groups_where_the_sum_is_open() -> None:
    assert Padua(1, 1, 1, 1, 1, 1).complexity == "low"
    assert Padua(1, 1, 1, 1, None, 2).complexity == "low or intermediate"
    assert Padua(2, 3, 2, 2, 2, 3).total == (14, 14)
    assert Padua(2, 3, 2, 2, None, 1).complexity == "high"


@pytest.mark.parametrize(("distance_mm", "radius_mm"), [(24.0, 8.0), (24.0, 12.0), (0.0, 10.0)])
@pytest.mark.parametrize("side", ["left", "right"])
def test_centrality_is_the_distance_in_radii(distance_mm: float, radius_mm: float, side: str) -> None:
    along = distance_mm * np.array([0.8, 0.0, -0.6])
    labels = kidney(SPACING, tuple(along), radius_mm, drawn_sinus=True, side=side)
    (found,) = score_lesions(labels, SPACING, side)  # type: ignore[arg-type]
    # The notch of the hilum moves the hull's centre by up to 2 mm, and a diameter on the grid is up to a voxel long.
    assert found.c_index == pytest.approx(distance_mm / radius_mm, abs=2.5 / radius_mm + 0.1 * distance_mm / radius_mm)


def test_every_lesion_is_listed_tumours_scored_and_cysts_measured() -> None:
    labels = kidney(SPACING, (40.0, 0.0, -10.0), 8.0)
    second, cyst = ellipsoid(grid(SPACING), (-40.0, 0.0, -8.0), 5.0), ellipsoid(grid(SPACING), (0.0, 0.0, -25.0), 9.0)
    labels[second], labels[cyst] = Tissue.TUMOR, Tissue.CYST
    found = score_lesions(labels, SPACING, "left")
    assert [lesion.kind for lesion in found] == ["tumor", "tumor", "cyst"]
    assert found[0].renal == score(labels, SPACING, "left")
    assert found[1].renal is not None
    assert found[2].renal is found[2].padua is found[2].c_index is None
    assert found[2].diameter_mm == pytest.approx(18.0, abs=2.0)
    assert found[2].volume_ml == pytest.approx(4 / 3 * np.pi * 0.9**3, rel=0.08)
    unscored = score_lesions(labels, SPACING, "left", complete=False)
    assert [lesion.renal for lesion in unscored] == [None] * 3
