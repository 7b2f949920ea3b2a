from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from datamodules.anatomy.nephrometry.mask_geometry import (
    Hull,
    axial_diameter_mm,
    ball,
    coarsened,
    feret_diameter_mm,
    positions,
    principal_axes,
    surface_points,
)
from tests.datamodules.kidney_phantom import ellipsoid, grid


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (5.0, 0.8, 0.8)])
def test_diameter_of_a_sphere_is_twice_its_radius(spacing: tuple[float, float, float]) -> None:
    sphere = ellipsoid(grid(spacing), (3.0, -4.0, 5.0), 24.0)
    assert feret_diameter_mm(surface_points(sphere, spacing)) == pytest.approx(48.0, abs=max(spacing))
    assert axial_diameter_mm(sphere, spacing) == pytest.approx(48.0, abs=1.5 * spacing[1])


def test_axial_diameter_ignores_the_craniocaudal_length() -> None:
    spacing = (2.0, 1.0, 1.0)
    cigar = ellipsoid(grid(spacing), (0.0, 0.0, 0.0), np.array([60.0, 10.0, 20.0]))
    assert axial_diameter_mm(cigar, spacing) == pytest.approx(40.0, abs=1.5)
    assert feret_diameter_mm(surface_points(cigar, spacing)) == pytest.approx(120.0, abs=3.0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_diameter_equals_the_largest_of_all_distances(seed: int) -> None:
    mask = np.random.default_rng(seed).random((5, 6, 4)) < 0.3
    mask[2, 2, 2] = True
    points = surface_points(mask, (2.0, 0.7, 1.3))
    assert feret_diameter_mm(points) == pytest.approx(pdist(points).max())


def test_one_voxel_has_the_extent_of_a_voxel() -> None:
    mask = np.zeros((3, 3, 3), dtype=bool)
    mask[1, 1, 1] = True
    assert feret_diameter_mm(surface_points(mask, (4.0, 1.0, 1.0))) == pytest.approx(4.0)
    assert feret_diameter_mm(surface_points(np.zeros((3, 3, 3), dtype=bool), (1.0, 1.0, 1.0))) == 0.0


def test_depth_in_a_cube_is_the_distance_to_its_nearest_side() -> None:
    corners = np.stack(np.meshgrid(*[[0.0, 10.0]] * 3), axis=-1).reshape(-1, 3)
    hull = Hull(corners)
    assert hull.depth_mm(np.array([[5.0, 5.0, 5.0], [1.0, 5.0, 5.0], [12.0, 5.0, 5.0]])) == pytest.approx([5, 1, -2])
    assert hull.volume_ml == pytest.approx(1.0)


@pytest.mark.parametrize("shape", [(12, 9, 14), (3, 20, 30)])
def test_filled_hull_holds_the_voxels_that_are_not_outside(shape: tuple[int, int, int]) -> None:
    spacing = (2.0, 1.5, 1.0)
    corners = np.random.default_rng(3).uniform(-2.0, 16.0, (25, 3))
    hull = Hull(corners)
    every = positions(np.ones(shape, dtype=bool), spacing)
    assert np.array_equal(hull.fill(shape, spacing).ravel(), hull.depth_mm(every) >= 0.0)
    cube = Hull(np.stack(np.meshgrid(*[[0.5, 6.5]] * 3), axis=-1).reshape(-1, 3))
    assert np.array_equal(cube.fill(shape, spacing).ravel(), cube.depth_mm(every) >= 0.0)


def test_principal_axes_of_an_ellipsoid_are_its_own() -> None:
    spacing = (1.5, 1.5, 1.5)
    axes = principal_axes(positions(ellipsoid(grid(spacing), (0, 0, 0), np.array([50.0, 20.0, 30.0])), spacing))
    assert axes.lengths_mm == pytest.approx([50.0, 30.0, 20.0], rel=0.02)
    assert np.abs(axes.directions) == pytest.approx(np.eye(3)[[0, 2, 1]], abs=1e-3)
    beside = axes.centre + np.array([0.0, 25.0, 0.0])
    assert axes.contains(np.stack([axes.centre, beside])).tolist() == [True, False]


def test_ball_is_measured_in_millimetres() -> None:
    assert ball(2.5, (5.0, 1.0, 1.0)).shape == (1, 5, 5)
    assert ball(2.0, (2.0, 2.0, 2.0)).sum() == 7


def test_coarsening_keeps_volume_and_extent() -> None:
    spacing = (5.0, 0.8, 0.8)
    sphere = ellipsoid(grid(spacing), (0, 0, 0), 30.0).astype(np.uint8)
    coarse, new = coarsened(sphere, spacing, 1.5)
    assert new[0] == 5.0
    assert min(new[1:]) >= 1.4
    assert np.multiply(coarse.shape, new) == pytest.approx(np.multiply(sphere.shape, spacing))
    assert coarse.sum() * np.prod(new) == pytest.approx(sphere.sum() * np.prod(spacing), rel=0.01)
