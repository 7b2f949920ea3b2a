"""R, E, N and L against closed forms and against SimpleITK, which shares no line with the measuring code."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK

from datamodules.anatomy.nephrometry import score
from datamodules.anatomy.nephrometry.mask_geometry import Bools, Spacing
from datamodules.anatomy.tissues import Tissue
from tests.datamodules.kidney_phantom import ellipsoid, grid, kidney

TUMORS = [((24.0, 12.0, -22.0), 15.0), ((0.0, 14.0, -14.0), 8.0), ((40.0, 0.0, -10.0), 22.0), ((8.0, 2.0, 2.0), 5.0)]


def itk_axial_diameter_mm(mask: Bools, spacing_mm: Spacing) -> float:
    """Largest Feret diameter of an axial slice between voxel centres."""
    largest = 0.0
    for section in mask[mask.any(axis=(1, 2))]:
        image = SimpleITK.GetImageFromArray(section.astype(np.uint8))
        image.SetSpacing((spacing_mm[2], spacing_mm[1]))
        statistics = SimpleITK.LabelShapeStatisticsImageFilter()
        statistics.ComputeFeretDiameterOn()
        statistics.Execute(image)
        largest = max(largest, statistics.GetFeretDiameter(1))
    return largest


def itk_distance_mm(first: Bools, second: Bools, spacing_mm: Spacing) -> float:
    """Smallest distance between the voxel centres of two masks."""
    image = SimpleITK.GetImageFromArray(first.astype(np.uint8))
    image.SetSpacing(spacing_mm[::-1])
    distance = SimpleITK.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True)
    return float(np.maximum(SimpleITK.GetArrayFromImage(distance)[second], 0.0).min())


@pytest.mark.slow
@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.5, 1.0, 1.0), (4.0, 0.8, 0.8)])
@pytest.mark.parametrize(("tumor", "radius"), TUMORS)
def test_diameter_and_distance_agree_with_simpleitk(
    tumor: tuple[float, float, float], radius: float, spacing: Spacing
) -> None:
    labels = kidney(spacing, tumor, radius)
    lesion, sinus = labels == Tissue.TUMOR, labels == Tissue.RENAL_SINUS
    found = score(labels, spacing, "left", lesion)
    # Border to border is up to one voxel more than centre to centre for a diameter, and up to one less for a gap.
    in_plane, across = float(np.hypot(*spacing[1:])), float(np.linalg.norm(spacing))
    assert 0.0 <= found.r_mm - itk_axial_diameter_mm(lesion, spacing) <= in_plane + 1e-3
    gap = itk_distance_mm(sinus, lesion, spacing)
    assert -1e-3 <= gap - found.n_mm <= across + 1e-3


def lens_share(large: float, small: float, distance: float) -> float:
    """Share of a sphere of radius `small` inside one of radius `large` at a distance of the centres."""
    if distance <= large - small:
        return 1.0
    if distance >= large + small:
        return 0.0
    volume = (
        np.pi
        * (large + small - distance) ** 2
        * (distance**2 + 2.0 * distance * (small + large) - 3.0 * (small - large) ** 2)
        / (12.0 * distance)
    )
    return float(volume / (4.0 / 3.0 * np.pi * small**3))


@pytest.mark.parametrize("distance", [20.0, 30.0, 38.0, 42.0, 46.0])
def test_exophytic_share_of_a_sphere_in_a_sphere_is_that_of_the_lens(distance: float) -> None:
    spacing, large, small = (1.5, 1.5, 1.5), 40.0, 10.0
    points = grid(spacing)
    labels = np.where(ellipsoid(points, (0, 0, 0), large), np.uint8(Tissue.KIDNEY), np.uint8(0)).astype(np.uint8)
    tumor = (0.0, 0.0, -distance)
    labels[ellipsoid(points, tumor, small)] = Tissue.TUMOR
    truth = 1.0 - lens_share(large, small, distance)
    lesion = labels == Tissue.TUMOR
    counted = 1.0 - float(ellipsoid(points, (0, 0, 0), large)[lesion].mean())
    assert counted == pytest.approx(truth, abs=0.01)
    # The hull spans the tumour's bed by a chord, which takes a sliver from the kidney: most where the centre of a
    # small tumour lies just below the surface.
    assert -0.03 < score(labels, spacing, "left").e_fraction - truth < 0.15


@pytest.mark.slow
@pytest.mark.parametrize("height", [0.0, 8.0, 14.0, 20.0, 26.0, 34.0])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_share_between_the_lines_is_that_of_a_sphere_between_two_planes(height: float, sign: float) -> None:
    radius, lip = 9.0, 17.0

    def below(plane: float) -> float:
        depth = float(np.clip(plane + radius, 0.0, 2.0 * radius))
        return depth**2 * (3.0 * radius - depth) / (4.0 * radius**3)

    truth = below(lip - height) - below(-lip - height)
    spacing = (1.0, 1.5, 1.5)
    found = score(kidney(spacing, (sign * height, 6.0, -16.0), radius, drawn_sinus=False), spacing, "left")
    # One millimetre of the lip's place is up to .08 of this tumour.
    assert found.l_fraction == pytest.approx(truth, abs=0.09)
    crosses = abs(height) < radius - 1.0
    expected = 3 if truth > 0.5 or crosses else 2 if truth > 0.0 else 1
    assert found.l == expected
    assert found.pole == ("interpolar" if expected == 3 else "upper" if sign > 0 else "lower")
