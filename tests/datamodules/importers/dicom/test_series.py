"""Stacks and volumes of DICOM series: order, orientation, rescale, tilt, gaps, duplicates, compression."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torchio as tio

from datamodules.errors import DataError
from datamodules.importers.dicom.headers import read_headers
from datamodules.importers.dicom.pixels import read_stack, same_pixels
from datamodules.importers.dicom.series import split_series
from datamodules.importers.dicom.slice_header import SliceHeader
from datamodules.importers.dicom.slice_refusals import refusal
from datamodules.importers.dicom.stack_geometry import Stack
from tests.datamodules.importers.dicom_phantom import (
    AXIAL,
    CORONAL,
    FEET_FIRST_PRONE,
    MARKER_RAS_MM,
    Scan,
    enhanced,
    phantom_hu,
)


def headers_of(folder: Path) -> list[SliceHeader]:
    return [header for path in sorted(folder.rglob("*")) if path.is_file() for header in read_headers(path, folder)[1]]


def stacks_of(folder: Path) -> list[Stack]:
    return split_series(headers_of(folder), functools.partial(same_pixels, root=folder))


def read_only_stack(folder: Path) -> tuple[tio.ScalarImage, list[str]]:
    (stack,) = stacks_of(folder)
    return read_stack(stack, folder, "series s", 10)


def marker_ras_mm(image: tio.ScalarImage) -> np.ndarray:
    """Centre of the brightest block in RAS millimetres."""
    weights = np.clip(image.data[0].numpy() - 200.0, 0.0, None)
    center = [np.average(np.arange(size), weights=weights.sum(axis=other)) for size, other in _other_axes(weights)]
    return (image.affine @ np.append(center, 1.0))[:3]


def _other_axes(array: np.ndarray) -> list[tuple[int, tuple[int, ...]]]:
    return [(array.shape[axis], tuple(other for other in range(3) if other != axis)) for axis in range(3)]


def error_against_truth(image: tio.ScalarImage) -> float:
    """Largest difference from the body that was scanned; the noise is up to 4 HU."""
    indices = np.stack(np.meshgrid(*map(np.arange, image.spatial_shape), indexing="ij"), axis=-1)
    points = indices @ image.affine[:3, :3].T + image.affine[:3, 3]
    return float(np.abs(image.data[0].numpy() - phantom_hu(points)).max())


@pytest.mark.parametrize("orientation", [AXIAL, CORONAL, FEET_FIRST_PRONE], ids=["axial", "coronal", "prone"])
@pytest.mark.parametrize("step_mm", [10.0, -10.0], ids=["upwards", "downwards"])
def test_a_known_body_comes_out_at_its_place_whatever_the_acquisition(
    tmp_path: Path, orientation: tuple[int, ...], step_mm: float
) -> None:
    scan = Scan(orientation=orientation, step_mm=step_mm, count=16)
    scan.tags = {"SliceThickness": 10}
    scan.write(tmp_path, order=np.random.default_rng(1).permutation(16).tolist())
    image, notes = read_only_stack(tmp_path)
    assert notes == []
    assert error_against_truth(image) <= 4.5
    assert np.abs(marker_ras_mm(image) - MARKER_RAS_MM).max() <= 9.0
    # In canonical axes the marker is right, in front and above, so at high indices.
    canonical = tio.ToCanonical()(image)
    place = np.linalg.inv(canonical.affine) @ np.append(marker_ras_mm(canonical), 1.0)
    assert (place[:3] > np.array(canonical.spatial_shape) / 2).all()


@pytest.mark.parametrize("syntax", ["native", "rle", "jpeg", "jpeg2000"])
def test_compressed_pixels_are_decoded_exactly(tmp_path: Path, syntax: str) -> None:
    scan = Scan(syntax=syntax)
    scan.write(tmp_path)
    names = {str(pydicom_syntax(path)) for path in tmp_path.iterdir()}
    assert len(names) == 1
    image, _ = read_only_stack(tmp_path)
    assert error_against_truth(image) <= 4.0


def pydicom_syntax(path: Path) -> str:
    import pydicom

    return pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID


def test_every_slice_has_its_own_rescale(tmp_path: Path) -> None:
    scan = Scan()
    for index in range(scan.count):
        scan.slope, scan.intercept = (1.0, -1024.0) if index % 2 else (0.5, -1000.0)
        scan.slice(index).save_as(tmp_path / f"{index}", enforce_file_format=True)
    image, _ = read_only_stack(tmp_path)
    assert error_against_truth(image) <= 4.5


def test_a_gantry_tilt_is_corrected_and_named(tmp_path: Path) -> None:
    Scan(tilt_mm=2.0, count=16, spacing_mm=16.0).write(tmp_path)
    image, notes = read_only_stack(tmp_path)
    assert any("gantry tilt of 11.3 degrees" in note for note in notes)
    directions = image.affine[:3, :3] / np.linalg.norm(image.affine[:3, :3], axis=0)
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-6)
    assert np.abs(marker_ras_mm(image) - MARKER_RAS_MM).max() <= 9.0
    # Without the correction the last slice would lie 30 mm off; edges blur by less than a voxel.
    inside = [(0.0, 0.0, 0.0), (0.0, 0.0, 60.0), (0.0, 0.0, -60.0)]
    for point in inside:
        i, j, k = np.round((np.linalg.inv(image.affine) @ np.append(point, 1.0))[:3]).astype(int)
        assert abs(float(image.data[0, i, j, k]) + 100.0) <= 5.0


def test_a_tilt_too_small_to_matter_is_not_resampled(tmp_path: Path) -> None:
    Scan(tilt_mm=0.05).write(tmp_path)
    assert read_only_stack(tmp_path)[1] == []


def test_a_missing_slice_is_refused_with_its_place(tmp_path: Path) -> None:
    paths = Scan(count=13).write(tmp_path)
    paths[5].unlink()
    with pytest.raises(DataError, match="1 of 13 slices are missing, the first after slice 5"):
        read_only_stack(tmp_path)


def test_uneven_slices_are_refused(tmp_path: Path) -> None:
    scan = Scan()
    scan.write(tmp_path)
    moved = scan.slice(4)
    moved.ImagePositionPatient[2] += 4.0
    moved.save_as(tmp_path / "I0004", enforce_file_format=True)
    with pytest.raises(DataError, match="unevenly spaced"):
        read_only_stack(tmp_path)


def test_identical_duplicates_are_dropped_with_a_note(tmp_path: Path) -> None:
    scan = Scan()
    paths = scan.write(tmp_path)
    (tmp_path / "copy").write_bytes(paths[3].read_bytes())
    scan.slice(7).save_as(tmp_path / "again", enforce_file_format=True)  # the same picture under another UID
    image, notes = read_only_stack(tmp_path)
    assert image.spatial_shape[2] == 12
    assert any("2 duplicated slices were dropped" in note for note in notes)


def test_conflicting_duplicates_are_refused(tmp_path: Path) -> None:
    scan = Scan()
    scan.write(tmp_path)
    scan.seed = 1
    scan.slice(3).save_as(tmp_path / "other", enforce_file_format=True)
    with pytest.raises(DataError, match="1 slices stand twice with different pixels"):
        read_only_stack(tmp_path)


@pytest.mark.parametrize("tag", ["AcquisitionNumber", "TemporalPositionIdentifier", None])
def test_two_acquisitions_under_one_uid_are_read_apart(tmp_path: Path, tag: str | None) -> None:
    for number in (1, 2):
        scan = Scan(seed=number, first_instance=1 + 12 * (number - 1))
        scan.tags = {} if tag is None else {tag: number}
        scan.write(tmp_path / str(number))
    stacks = stacks_of(tmp_path)
    assert [len(stack.slices) for stack in stacks] == [12, 12]
    assert [stack.name[-2:] for stack in stacks] == ["#1", "#2"]
    assert {header.path[0] for header in stacks[0].slices} == {"1"}
    for stack in stacks:
        assert error_against_truth(read_stack(stack, tmp_path, "s", 10)[0]) <= 4.0


def test_two_orientations_and_two_blocks_under_one_uid_are_read_apart(tmp_path: Path) -> None:
    Scan().write(tmp_path / "axial")
    Scan(orientation=CORONAL, seed=1).write(tmp_path / "coronal")
    assert len(stacks_of(tmp_path)) == 2
    block = Scan(center_z_mm=400.0, seed=2)
    block.tags = {"AcquisitionNumber": 2}
    block.write(tmp_path / "above")
    assert sorted(len(stack.slices) for stack in stacks_of(tmp_path)) == [12, 12, 12]


def test_a_truncated_file_refuses_its_series(tmp_path: Path) -> None:
    paths = Scan().write(tmp_path)
    paths[4].write_bytes(paths[4].read_bytes()[:-7])
    with pytest.raises(DataError, match="1 of 12 files are truncated"):
        read_only_stack(tmp_path)


def test_a_truncated_compressed_file_refuses_its_series_without_naming_the_path(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    paths = Scan(syntax="jpeg2000").write(tmp_path)
    paths[4].write_bytes(paths[4].read_bytes()[:-120])
    with pytest.raises(DataError, match="cannot be decoded") as caught:
        read_only_stack(tmp_path)
    # The decoder's own complaints, written by C++ code, would name the file.
    assert str(tmp_path) not in str(caught.value) + "".join(capfd.readouterr())


def test_an_enhanced_multi_frame_file_is_a_volume(tmp_path: Path) -> None:
    enhanced(Scan()).save_as(tmp_path / "one", enforce_file_format=True)
    image, _ = read_only_stack(tmp_path)
    assert image.spatial_shape == (16, 16, 12)
    assert error_against_truth(image) <= 4.0


def test_pixels_that_are_not_hounsfield_units_are_refused(tmp_path: Path) -> None:
    scan = Scan()
    for index in range(scan.count):
        dataset = scan.slice(index)
        del dataset.RescaleSlope, dataset.RescaleIntercept
        dataset.save_as(tmp_path / f"{index}", enforce_file_format=True)
    with pytest.raises(DataError, match="not Hounsfield units"):
        read_only_stack(tmp_path)


def test_too_few_slices_are_refused(tmp_path: Path) -> None:
    Scan(count=4).write(tmp_path)
    with pytest.raises(DataError, match="4 slices; expected at least 10"):
        read_only_stack(tmp_path)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"Modality": "MR"}, "MR instead of CT"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localiser"),
        ({"SeriesDescription": "Topogram 0.6"}, "localiser"),
        ({"ImageType": ["DERIVED", "SECONDARY", "MIP"]}, "MIP"),
        ({"ImageType": ["DERIVED", "SECONDARY", "PROJECTION IMAGE"]}, "PROJECTION IMAGE"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "SCREEN SAVE"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "secondary capture"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.67", "Modality": "SR"}, "SR instead of CT"),
        ({"ImageOrientationPatient": None}, "without ImageOrientationPatient"),
        ({"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED"]}, None),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "CT_SOM5 MPR"]}, None),
    ],
)
def test_what_is_no_slice_of_a_ct_volume_is_named(tmp_path: Path, tags: dict[str, object], reason: str | None) -> None:
    scan = Scan()
    dataset = scan.slice(0)
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.save_as(tmp_path / "one", enforce_file_format=True)
    found = refusal(headers_of(tmp_path)[0])
    assert found is None if reason is None else reason in (found or "")
