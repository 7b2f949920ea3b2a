"""Polar lines and nearness: what is a sinus, what is a calyx, and what is neither."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from datamodules.anatomy.nephrometry import Nephrometry, score
from datamodules.anatomy.nephrometry.organ import measure_organ
from datamodules.anatomy.tissues import Tissue
from tests.datamodules.kidney_phantom import ellipsoid, grid, kidney

SPACING = (2.0, 2.0, 2.0)
LIPS_MM = 17.0
"""Where the sinus of the phantom crosses its surface."""
CALYX = (36.0, 0.0, 2.0)


def lines(labels: np.ndarray, spacing: tuple[float, float, float] = SPACING) -> tuple[float, float]:
    """Polar lines from the middle of the field, where the phantom's centre is."""
    organ = measure_organ(labels, spacing, "left")
    middle = (labels.shape[0] - 1) / 2.0 * spacing[0]
    low, high = (organ.frame.centre[0] + along * organ.frame.superior[0] - middle for along in organ.polar_mm)
    return low, high


def with_cavity(labels: np.ndarray, centre: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    labels = labels.copy()
    hole = ellipsoid(grid(SPACING), centre, radius_mm) & (labels == Tissue.KIDNEY)
    labels[hole] = Tissue.UNLABELED
    return labels


@pytest.mark.slow
@pytest.mark.parametrize("drawn_sinus", [True, False])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), SPACING, (2.0, 1.0, 1.0)])
def test_polar_lines_go_through_the_lips(drawn_sinus: bool, spacing: tuple[float, float, float]) -> None:
    assert lines(kidney(spacing, drawn_sinus=drawn_sinus), spacing) == pytest.approx((-LIPS_MM, LIPS_MM), abs=2.0)


def test_a_calyx_apart_moves_no_line_and_counts_for_nearness() -> None:
    tumor = (40.0, 0.0, -14.0)
    bare = kidney(SPACING, tumor, 9.0, drawn_sinus=False)
    deep = with_cavity(bare, CALYX, 4.0)
    assert lines(deep) == pytest.approx(lines(bare), abs=0.2)
    before, after = (score(labels, SPACING, "left") for labels in (bare, deep))
    assert (before.l, after.l) == (1, 1)
    gap = np.linalg.norm(np.subtract(tumor, CALYX)) - 9.0 - 4.0
    assert after.n_mm == pytest.approx(gap, abs=2.0)
    assert before.n_mm > after.n_mm + 5.0


@pytest.mark.parametrize("tissue", [Tissue.UNLABELED, Tissue.COLLECTING_SYSTEM])
def test_a_calyx_that_leads_off_the_sinus_moves_no_line(tissue: Tissue) -> None:
    bare = kidney(SPACING, (44.0, 0.0, 0.0), 8.0, drawn_sinus=tissue != Tissue.UNLABELED)
    points = grid(SPACING)
    # A tube of 5 mm radius from the sinus up into the pole.
    tube = (np.hypot(points[..., 1], points[..., 2] - 12.0) < 5.0) & (points[..., 0] > 0.0) & (points[..., 0] < 34.0)
    wide = bare.copy()
    wide[tube & (bare == Tissue.KIDNEY)] = tissue
    assert lines(wide) == pytest.approx(lines(bare), abs=0.5)
    assert score(wide, SPACING, "left").l == score(bare, SPACING, "left").l == 1


def test_a_cavity_that_touches_the_tumour_is_no_calyx() -> None:
    tumor = (30.0, 0.0, -12.0)
    bare = kidney(SPACING, tumor, 10.0, drawn_sinus=False)
    gap = with_cavity(bare, (30.0, 0.0, 0.0), 4.0)
    before, after = (score(labels, SPACING, "left") for labels in (bare, gap))
    assert before.n_mm > 8.0
    assert after.n_mm == pytest.approx(before.n_mm, abs=0.01)
    assert after.n == before.n == 1


def test_a_drawn_collecting_system_is_measured_to_and_moves_no_line() -> None:
    tumor = (40.0, 0.0, -14.0)
    labels = kidney(SPACING, tumor, 9.0)
    drawn = labels.copy()
    drawn[ellipsoid(grid(SPACING), CALYX, 4.0) & (labels == Tissue.KIDNEY)] = Tissue.COLLECTING_SYSTEM
    assert score(drawn, SPACING, "left").n_mm < score(labels, SPACING, "left").n_mm - 5.0
    assert lines(drawn) == pytest.approx(lines(labels), abs=0.2)


@pytest.mark.parametrize("outside", [False, True])
def test_a_kidney_without_a_hollow_has_its_sinus_at_the_usual_place(outside: bool) -> None:
    """As where a tumour fills it; a pelvis that is drawn outside the kidney alone is no sinus either."""
    labels = kidney(SPACING, (0.0, 0.0, -25.0), 8.0)
    labels[labels == Tissue.RENAL_SINUS] = Tissue.KIDNEY
    if outside:
        labels[ellipsoid(grid(SPACING), (0.0, 0.0, 45.0), 8.0)] = Tissue.COLLECTING_SYSTEM
    found = score(labels, SPACING, "left")
    assert found.sinus_source == "approximated"
    assert found.n_mm > 15.0
    assert lines(labels) == pytest.approx((-16.5, 16.5), abs=2.0)


def test_what_a_tumour_left_of_the_sinus_draws_no_lines() -> None:
    labels = kidney(SPACING, drawn_sinus=False)
    points = grid(SPACING)
    sinus = ellipsoid(points, (0, 0, 24), np.array([18.0, 10.0, 14.0])) & (labels == Tissue.UNLABELED)
    labels[sinus & (points[..., 0] < 9.0)] = Tissue.TUMOR
    assert lines(labels) == pytest.approx((-16.5, 16.5), abs=3.0)


@pytest.mark.parametrize("spacing", [SPACING, (5.0, 0.8, 0.8)])
def test_a_lesion_of_one_voxel_is_scored(spacing: tuple[float, float, float]) -> None:
    labels = kidney(spacing)
    voxel = np.ravel_multi_index(tuple(size // 2 for size in labels.shape), labels.shape)
    labels.ravel()[voxel] = Tissue.TUMOR
    lesion = labels == Tissue.TUMOR
    found = score(labels, spacing, "left", lesion)
    assert (found.r, found.e, found.l) == (1, 3, 3)
    assert found.r_mm == pytest.approx(spacing[1], abs=0.01)


def test_an_atrophic_kidney_has_its_own_lines() -> None:
    labels = kidney(SPACING, (28.0, 8.0, -20.0), 14.0)
    whole, halved = score(labels, SPACING, "left"), score(labels, (1.0, 1.0, 1.0), "left")
    assert halved.r_mm == pytest.approx(whole.r_mm / 2.0, abs=0.01)
    assert halved.l_fraction == pytest.approx(whole.l_fraction, abs=0.08)
    assert (halved.a, halved.l, halved.pole) == (whole.a, whole.l, whole.pole)


def test_a_kidney_cut_by_the_edge_of_the_volume_is_scored_as_in_air() -> None:
    labels = kidney(SPACING, (24.0, 12.0, -22.0))
    used = np.argwhere(labels > 0)
    tight = labels[tuple(slice(low, high + 1) for low, high in zip(used.min(0), used.max(0), strict=True))]
    _same(score(tight, SPACING, "left"), score(labels, SPACING, "left"))
    cut = score(labels[: labels.shape[0] // 2 + 10], SPACING, "left")
    assert 0.0 <= cut.e_fraction <= 1.0


def _same(first: Nephrometry, second: Nephrometry) -> None:
    assert first.r_mm == second.r_mm
    assert first.n_mm == pytest.approx(second.n_mm, abs=0.01)
    assert first.e_fraction == pytest.approx(second.e_fraction, abs=0.005)
    assert first.l_fraction == pytest.approx(second.l_fraction, abs=0.005)


_PLACES = st.tuples(st.floats(-40.0, 40.0), st.floats(-14.0, 14.0), st.floats(-30.0, 5.0))


# A shrunken example costs minutes and says no more than the one that failed.
@pytest.mark.slow
@settings(max_examples=8, deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate))
@given(tumor=_PLACES, radius=st.floats(5.0, 18.0), shift=st.tuples(*[st.integers(0, 6)] * 3))
def test_mirror_image_quarter_turn_and_translation(
    tumor: tuple[float, float, float], radius: float, shift: tuple[int, int, int]
) -> None:
    labels = kidney(SPACING, tumor, radius, drawn_sinus=False)
    found = score(labels, SPACING, "left")
    _same(found, score(labels[:, :, ::-1], SPACING, "right"))
    _same(found, score(np.pad(labels, [(step, 0) for step in shift]), SPACING, "left"))
    for turns in (1, 3):
        _same(found, score(np.rot90(labels, turns, axes=(1, 2)), SPACING, "left"))
    _same(found, score(np.rot90(labels, 2, axes=(1, 2)), SPACING, "right"))


@pytest.mark.slow
@pytest.mark.parametrize("drawn_sinus", [True, False])
@pytest.mark.parametrize("tumor", [(24.0, 12.0, -22.0), (0.0, -14.0, -16.0), (-38.0, 4.0, -6.0)])
def test_doubling_the_resolution_hardly_changes_a_score(tumor: tuple[float, float, float], drawn_sinus: bool) -> None:
    coarse, fine = (
        score(kidney(spacing, tumor, 12.0, drawn_sinus=drawn_sinus), spacing, "left")
        for spacing in (SPACING, (1.0, 1.0, 1.0))
    )
    assert coarse.r_mm == pytest.approx(fine.r_mm, abs=2.0)
    assert coarse.n_mm == pytest.approx(fine.n_mm, abs=2.0)
    assert coarse.e_fraction == pytest.approx(fine.e_fraction, abs=0.06)
    assert coarse.l_fraction == pytest.approx(fine.l_fraction, abs=0.08)
    assert (coarse.r, coarse.a, coarse.pole) == (fine.r, fine.a, fine.pole)
