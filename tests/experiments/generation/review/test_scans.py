"""Slices as a radiologist reads them: the right way round, windowed, outlined."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from datamodules.anatomy.tissues import Tissue
from datamodules.errors import DataError
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.roi import Mask, Volume
from datamodules.volumes.shards import VolumeSet, finish_volume_set, volume_folder, write_shard
from experiments.generation.review.cases import Case
from experiments.generation.review.scans import PLANES, Scans

CONTRACT = PreprocessingContract(extent_mm=(60, 40, 50), grid=(6, 8, 10))
CASE = Case("P1", "S1", "left", "", {})
ALL = slice(None)
EDGES = {"head": (5, ALL, ALL), "front": (ALL, 7, ALL), "right": (ALL, ALL, 9)}


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Scans:
    """Three series; the arterial one is bright at the head, the first venous in front, the second at the right."""
    volumes = []
    for series, phase, where in (("a", "venous", "front"), ("b", "arterial", "head"), ("c", "venous", "right")):
        image = np.full(CONTRACT.grid, -160, dtype=np.int16)
        image[EDGES[where]] = 240
        volumes.append(Volume("S1", series, "left", phase, image))
    labels = np.full(CONTRACT.grid, Tissue.KIDNEY, dtype=np.uint8)
    labels[1:3, 2:6, 3:8] = Tissue.TUMOR
    labels[2, 2:6, 2:8] = Tissue.CYST
    root = tmp_path_factory.mktemp("scans")
    folder = volume_folder(root, CONTRACT)
    finish_volume_set(folder, CONTRACT, [write_shard(folder, "P1", volumes, [Mask("S1", "left", labels)], CONTRACT)])
    return Scans(VolumeSet(Path(folder)))


def _drawn(scans: Scans, number: int, plane: str, level: int, outline: bool = False) -> np.ndarray:
    return imread(io.BytesIO(scans.picture(CASE, number, plane, level, outline)))[..., :3]


def test_series_are_named_and_ordered_by_phase(scans: Scans) -> None:
    assert [entry.title for entry in scans.series(CASE)] == ["arterial", "venous 1", "venous 2"]
    assert scans.series(Case("P2", "S1", "left", "", {})) == []


def test_slices_are_turned_as_radiologists_expect(scans: Scans) -> None:
    head, front, right = 0, 1, 2
    assert _drawn(scans, head, "axial", 0).min() == 1  # counted from the head, at the end of the window
    assert _drawn(scans, head, "axial", 1).max() == 0
    assert _drawn(scans, front, "coronal", 0).min() == 1
    assert _drawn(scans, right, "sagittal", 0).min() == 1
    for number, plane, edge in (
        (front, "axial", (0, slice(None))),
        (right, "axial", (slice(None), 0)),
        (head, "coronal", (0, slice(None))),
        (right, "coronal", (slice(None), 0)),
        (head, "sagittal", (0, slice(None))),
        (front, "sagittal", (slice(None), 0)),
    ):
        shown = _drawn(scans, number, plane, 3)
        assert shown[edge].min() == 1, (number, plane)
        assert shown.mean() < 0.3, (number, plane)


def test_a_window_says_what_is_black_and_what_is_white(scans: Scans) -> None:
    """Voxels are of -160 and 240 HU."""
    for window, expected in {"soft": (0, 255), "narrow": (0, 255), "bone": (48, 105)}.items():
        shown = 255 * imread(io.BytesIO(scans.picture(CASE, 2, "sagittal", 3, False, window)))[..., :3]
        middle = 255 * imread(io.BytesIO(scans.picture(CASE, 2, "sagittal", 0, False, window)))[..., :3]
        assert (round(shown.mean()), round(middle.mean())) == expected
    with pytest.raises(DataError, match="window lung"):
        scans.picture(CASE, 2, "sagittal", 3, False, "lung")


def test_pictures_keep_proportions_in_mm(scans: Scans) -> None:
    for plane, (width, height) in {"axial": (50, 40), "coronal": (50, 60), "sagittal": (40, 60)}.items():
        assert scans.size(plane) == (3 * width, 3 * height)
        assert _drawn(scans, 0, plane, 1).shape == (3 * height, 3 * width, 3)


def test_the_lesion_is_outlined_where_it_is_and_only_when_asked(scans: Scans) -> None:
    assert scans.outlined(CASE)
    assert scans.first_slice(CASE, "axial") == 6 - 1 - 2  # where most of it is
    plain, outlined = (_drawn(scans, 0, "axial", 3, outline) for outline in (False, True))
    coloured = (np.ptp(outlined, axis=2) > 0.1).nonzero()
    assert np.ptp(plain, axis=2).max() == 0
    # Rows 2 to 5 of 8 from behind and columns 2 to 7 of 10 from the left, both turned, at 15 pixels a voxel.
    for found, (low, high) in zip(coloured, ((30, 90), (30, 120)), strict=True):
        assert abs(found.min() - low) <= 8
        assert abs(found.max() - high) <= 8
    assert np.ptp(_drawn(scans, 0, "axial", 0, True), axis=2).max() == 0


def test_what_is_not_there_is_refused(scans: Scans) -> None:
    for number, plane, level in ((3, "axial", 0), (0, "oblique", 0), (0, "axial", 6), (0, "axial", -1)):
        with pytest.raises(DataError, match="none such"):
            scans.picture(CASE, number, plane, level, False)
    assert set(PLANES) == {"axial", "coronal", "sagittal"}
