"""DICOM as archives, scanners and anonymisers export it: read as what it means, or left out with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom.dataset import FileDataset
from pydicom.uid import ImplicitVRLittleEndian

from datamodules.errors import DataError
from datamodules.importers.dicom.headers import NotDicom, read_headers
from datamodules.importers.dicom.pixels import read_pixels, read_stack
from datamodules.importers.dicom.series import split_series
from datamodules.importers.dicom.slice_header import SliceHeader
from datamodules.importers.dicom.slice_refusals import fault, refusal
from datamodules.importers.dicom.stack_geometry import geometry
from tests.datamodules.importers.dicom_phantom import AXIAL, Scan, enhanced

STEP_MM = 10.0


def headers_of(folder: Path) -> list[SliceHeader]:
    return [header for path in sorted(folder.iterdir()) for header in read_headers(path, folder)[1]]


def write(folder: Path, scan: Scan, change: Callable[[int, FileDataset], None] | None = None) -> list[SliceHeader]:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(scan.count):
        dataset = scan.slice(index)
        if change is not None:
            change(index, dataset)
        dataset.save_as(folder / f"{scan.first_instance + index:04d}", enforce_file_format=True)
    return headers_of(folder)


def different(first: SliceHeader, second: SliceHeader) -> bool:
    return False


def with_text(dataset: FileDataset, name: str, text: str) -> None:
    """Put a text into a DS element that the library would refuse to write."""
    tag = pydicom.datadict.tag_for_keyword(name)
    assert tag is not None
    dataset[name] = pydicom.DataElement(tag, "LO", text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("PixelSpacing", "16,0\\16,0"),
        ("PixelSpacing", "16,0\\16"),
        ("SliceThickness", "10,0"),
        ("RescaleIntercept", "-1024,0"),
        ("RescaleSlope", "1,0"),
        ("ImageOrientationPatient", "1,0\\0,0\\0,0\\0,0\\1,0\\0,0"),
        ("RescaleIntercept", "-1,024e3"),
    ],
)
def test_a_decimal_comma_is_a_point_in_any_number(tmp_path: Path, name: str, text: str) -> None:
    plain = write(tmp_path / "plain", Scan(count=2))
    made = Scan(count=2)

    def change(index: int, dataset: FileDataset) -> None:
        with_text(dataset, name, text)
        raw = dataset[name]
        dataset[name] = pydicom.DataElement(raw.tag, "LO", text)

    found = write(tmp_path / "comma", made, change)
    assert refusal(found[0]) is None
    for field in ("pixel_spacing", "thickness_mm", "intercept", "slope", "orientation", "position"):
        assert getattr(found[0], field) == pytest.approx(getattr(plain[0], field))
    same = read_pixels((found[0],), tmp_path / "comma", "")[0]
    np.testing.assert_array_equal(same, read_pixels((plain[0],), tmp_path / "plain", "")[0])


@pytest.mark.parametrize("text", ["8,0,8,0", "1.234,5\\8", "abc\\8", "8", "8\\8\\8", "nan\\8"])
def test_what_is_no_number_is_named_by_its_tag(tmp_path: Path, text: str) -> None:
    found = write(tmp_path, Scan(count=1), lambda index, dataset: with_text(dataset, "PixelSpacing", text))
    assert refusal(found[0]) == "with an unreadable PixelSpacing"


@pytest.mark.parametrize(("name", "text"), [("RescaleSlope", "one"), ("RescaleSlope", "0"), ("RescaleIntercept", "?")])
def test_a_scale_that_cannot_be_read_is_not_taken_for_none(tmp_path: Path, name: str, text: str) -> None:
    found = write(tmp_path, Scan(count=1), lambda index, dataset: with_text(dataset, name, text))
    assert refusal(found[0]) == f"with an unreadable {name}"


@pytest.mark.parametrize("missing", ["preamble", "preamble and meta", "meta"])
@pytest.mark.parametrize("implicit", [True, False])
def test_files_without_preamble_or_meta_are_read(tmp_path: Path, missing: str, implicit: bool) -> None:
    scan = Scan(count=1)
    whole = write(tmp_path / "whole", scan)
    dataset = scan.slice(0)
    bare = tmp_path / "bare"
    bare.mkdir()
    if implicit:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    if missing == "preamble":
        path = bare / "x"
        dataset.save_as(path, enforce_file_format=True)
        path.write_bytes(path.read_bytes()[132:])
    else:
        content = pydicom.filebase.DicomBytesIO()
        content.is_little_endian, content.is_implicit_VR = True, implicit
        del dataset.file_meta
        pydicom.filewriter.write_dataset(content, dataset)
        head = b"" if missing == "preamble and meta" else b"\0" * 128 + b"DICM"
        (bare / "x").write_bytes(head + content.getvalue())
    (found,) = headers_of(bare)
    assert refusal(found) is None
    assert found.position == whole[0].position
    np.testing.assert_array_equal(
        read_pixels((found,), bare, "")[0], read_pixels((whole[0],), tmp_path / "whole", "")[0]
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08\x00",
        b"a report of a scan",
        b"\x08\x00\x05\x00" + b"\xff" * 40,
        b"\x1f\x8b\x08\x00" * 10,
        b"\0" * 200,
    ],
)
def test_what_is_no_dicom_is_not_taken_for_a_bare_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "note.txt"
    path.write_bytes(content)
    with pytest.raises((NotDicom, DataError)):
        read_headers(path, tmp_path)


@pytest.mark.parametrize("digits", [6, 5, 4, 3, 2])
def test_cosines_that_differ_by_rounding_are_parallel(tmp_path: Path, digits: int) -> None:
    tilt = 10.0**-digits / 2
    jitter = [-1.01, 1.01]

    def change(index: int, dataset: FileDataset) -> None:
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, round(jitter[index % 2] * tilt, 8)]

    (stack,) = split_series(write(tmp_path, Scan(), change), different)
    assert len(stack.slices) == 12
    assert geometry(stack, 5).spacing[2] == pytest.approx(STEP_MM, rel=1e-3)


def test_planes_of_two_orientations_stay_apart(tmp_path: Path) -> None:
    angle = np.radians(2.0)
    turned = (1, 0, 0, 0, np.cos(angle), np.sin(angle))
    write(tmp_path, Scan())
    found = write(tmp_path, Scan(orientation=turned, first_instance=101))
    assert [len(stack.slices) for stack in split_series(found, different)] == [12, 12]


@pytest.mark.parametrize(("step", "decimals"), [(1.25, 1), (1.25, 2), (0.625, 2), (2.5, 0), (3.3, 0), (0.7, 1)])
def test_positions_may_be_rounded(tmp_path: Path, step: float, decimals: int) -> None:
    def change(index: int, dataset: FileDataset) -> None:
        dataset.ImagePositionPatient = [round(float(value), decimals) for value in dataset.ImagePositionPatient]

    (stack,) = split_series(write(tmp_path, Scan(count=48, step_mm=step), change), different)
    assert len(stack.slices) == 48
    found = geometry(stack, 5)
    assert found.spacing[2] == pytest.approx(step, abs=2 * 10.0**-decimals / 47)
    assert found.tilt_degrees == 0.0


@pytest.mark.parametrize("stated", [True, False])
def test_a_rounding_that_hides_neighbours_needs_the_distance_stated(tmp_path: Path, stated: bool) -> None:
    def change(index: int, dataset: FileDataset) -> None:
        dataset.ImagePositionPatient = [round(float(value)) for value in dataset.ImagePositionPatient]
        if stated:
            dataset.SpacingBetweenSlices = 1.25

    (stack,) = split_series(write(tmp_path, Scan(count=48, step_mm=1.25), change), different)
    if stated:
        assert geometry(stack, 5).spacing[2] == pytest.approx(1.25, rel=0.02)
    else:
        with pytest.raises(DataError, match=r"unevenly spaced .* rounded to 1 mm"):
            geometry(stack, 5)


@pytest.mark.parametrize("lost", [1, 5, 24, 46])
@pytest.mark.parametrize("decimals", [1, 4])
def test_a_missing_slice_is_missed_however_positions_are_rounded(tmp_path: Path, lost: int, decimals: int) -> None:
    def change(index: int, dataset: FileDataset) -> None:
        dataset.ImagePositionPatient = [round(float(value), decimals) for value in dataset.ImagePositionPatient]

    found = write(tmp_path, Scan(count=48, step_mm=1.25), change)
    (stack,) = split_series([header for header in found if header.instance != lost + 1], different)
    with pytest.raises(DataError, match=f"1 of 48 slices are missing, the first after slice {lost}"):
        geometry(stack, 5)


def test_two_scans_between_each_other_are_not_one_of_half_the_step(tmp_path: Path) -> None:
    write(tmp_path, Scan(tags={"AcquisitionNumber": 1}))
    found = write(tmp_path, Scan(center_z_mm=STEP_MM / 2, first_instance=101, tags={"AcquisitionNumber": 2}))
    stacks = split_series(found, different)
    assert [geometry(stack, 5).spacing[2] for stack in stacks] == pytest.approx([STEP_MM, STEP_MM])


def test_rotations_that_are_numbered_one_by_one_are_one_scan(tmp_path: Path) -> None:
    def change(index: int, dataset: FileDataset) -> None:
        dataset.AcquisitionNumber = index // 4

    (stack,) = split_series(write(tmp_path, Scan(), change), different)
    assert len(stack.slices) == 12


def test_coordinate_systems_are_told_apart_unless_every_file_has_its_own(tmp_path: Path) -> None:
    def own(index: int, dataset: FileDataset) -> None:
        dataset.FrameOfReferenceUID = f"1.2.3.{index}"

    assert len(split_series(write(tmp_path / "own", Scan(), own), different)) == 1

    def halves(index: int, dataset: FileDataset) -> None:
        dataset.FrameOfReferenceUID = f"1.2.3.{index // 6}"

    assert len(split_series(write(tmp_path / "halves", Scan(), halves), different)) == 2


def test_slices_that_are_thinner_than_their_distance_are_noted(tmp_path: Path) -> None:
    (stack,) = split_series(write(tmp_path, Scan(tags={"SliceThickness": 5.0})), different)
    assert "slices of 5 mm lie 10.00 mm apart" in " ".join(geometry(stack, 5).notes)


def test_two_slices_whose_positions_are_exchanged_are_noted(tmp_path: Path) -> None:
    def change(index: int, dataset: FileDataset) -> None:
        other = {2: 7, 7: 2}.get(index, index)
        dataset.ImagePositionPatient = [round(float(value), 4) for value in Scan().plane(other)[0]]

    (stack,) = split_series(write(tmp_path, Scan(), change), different)
    assert "2 slices lie elsewhere than their instance numbers say" in " ".join(geometry(stack, 5).notes)
    (plain,) = split_series(write(tmp_path / "plain", Scan()), different)
    assert geometry(plain, 5).notes == ()


PADDINGS = {
    "unsigned": (0, 16, 63536, 63536, "US"),
    "unsigned, signed tag": (0, 16, 63536, -2000, "SS"),
    "signed": (1, 16, 63536, -2000, "SS"),
    "signed, unsigned tag": (1, 16, 63536, 63536, "US"),
    "twelve bits": (0, 12, 63536, 63536, "US"),
    "brightest": (0, 12, 4095, 4095, "US"),
    "like water": (0, 16, 1024, 1024, "US"),
    "no tag": (0, 16, 63536, None, ""),
}


@pytest.mark.parametrize("name", list(PADDINGS))
def test_padding_is_air_however_it_is_spelled(tmp_path: Path, name: str) -> None:
    signed, bits, stored, tag, kind = PADDINGS[name]

    def change(index: int, dataset: FileDataset) -> None:
        values = np.frombuffer(dataset.PixelData, "<i2").reshape(16, 16).astype(np.int64)
        assert (values >= 0).all()
        values = values.copy()
        values[:, 0] = values[0] = stored
        values[8, 8] = 1024  # water inside the body
        dataset.PixelData = (values % 65536).astype("<u2").tobytes()
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, signed
        if tag is not None:
            dataset.add_new(0x00280120, kind, tag)

    found = write(tmp_path / "padded", Scan(), change)
    plain = write(tmp_path / "plain", Scan())
    array, wrapped = read_pixels(tuple(found), tmp_path / "padded", "")
    truth = read_pixels(tuple(plain), tmp_path / "plain", "")[0]
    assert (array[:, 0] <= -900).all()
    assert (array[:, :, 0] <= -900).all()
    assert (array[:, 8, 8] == 0).all()
    inside = np.ones(array.shape, dtype=bool)
    inside[:, 0] = inside[:, :, 0] = inside[:, 8, 8] = False
    np.testing.assert_array_equal(array[inside], truth[inside])
    assert bool(wrapped) == (name == "no tag")


def test_a_range_of_padding_is_air(tmp_path: Path) -> None:
    def change(index: int, dataset: FileDataset) -> None:
        values = np.frombuffer(dataset.PixelData, "<i2").reshape(16, 16).copy()
        values[0] = np.arange(-3000, -3016, -1)
        dataset.PixelData = values.tobytes()
        dataset.add_new(0x00280120, "SS", -3020)
        dataset.add_new(0x00280121, "SS", -2500)

    found = write(tmp_path, Scan(), change)
    assert (read_pixels(tuple(found), tmp_path, "")[0][:, 0] == -1000).all()


def test_bits_above_those_stored_are_no_part_of_a_value(tmp_path: Path) -> None:
    def change(index: int, dataset: FileDataset) -> None:
        values = np.frombuffer(dataset.PixelData, "<u2").reshape(16, 16)
        dataset.PixelData = (values | 0x8000).astype("<u2").tobytes()  # an overlay in the highest bit
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0

    found = write(tmp_path / "overlay", Scan(), change)
    plain = write(tmp_path / "plain", Scan())
    np.testing.assert_array_equal(
        read_pixels(tuple(found), tmp_path / "overlay", "")[0], read_pixels(tuple(plain), tmp_path / "plain", "")[0]
    )


@pytest.mark.parametrize("syntax", ["native", "rle", "jpeg", "jpeg2000"])
def test_pixels_are_those_of_simpleitk(tmp_path: Path, syntax: str) -> None:
    found = write(tmp_path, Scan(syntax=syntax, slope=0.5, count=3))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(tmp_path / header.path) for header in found])
    np.testing.assert_array_equal(
        read_pixels(tuple(found), tmp_path, "")[0], sitk.GetArrayFromImage(reader.Execute()).astype(np.float32)
    )


@pytest.mark.parametrize("syntax", ["rle", "jpeg", "jpeg2000"])
def test_compressed_multi_frame_files_are_read(tmp_path: Path, syntax: str) -> None:
    scan = Scan(count=12)
    plain = write(tmp_path / "plain", Scan(count=12))
    dataset = enhanced(scan)
    frames = dataset.pixel_array
    encoded = []
    for index in range(scan.count):
        one = Scan(count=12, syntax=syntax).slice(index)
        encoded.append(pydicom.encaps.get_frame(one.PixelData, 0, number_of_frames=1))
        syntax_uid = one.file_meta.TransferSyntaxUID
    assert len(frames) == len(encoded)
    dataset.file_meta.TransferSyntaxUID = syntax_uid
    dataset.PixelData = pydicom.encaps.encapsulate(encoded)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    folder = tmp_path / "multi"
    folder.mkdir()
    dataset.save_as(folder / "x", enforce_file_format=True)
    (stack,) = split_series(headers_of(folder), different)
    (single,) = split_series(plain, different)
    ours, _ = read_stack(stack, folder, "s", 5)
    theirs, _ = read_stack(single, tmp_path / "plain", "s", 5)
    np.testing.assert_array_equal(ours.data.numpy(), theirs.data.numpy())
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-3)


@pytest.mark.parametrize("blank", ["", None])
def test_blank_uids_are_replaced_by_folder_and_coordinates(tmp_path: Path, blank: str | None) -> None:
    def change(index: int, dataset: FileDataset) -> None:
        for name in ("SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID"):
            if blank is None:
                delattr(dataset, name)
            else:
                setattr(dataset, name, blank)

    folder = tmp_path / "in"
    write(folder / "a", Scan(description="ABD ARTERIAL"), change)
    write(folder / "b", Scan(description="ABD VENOUS"), change)
    found = [header for path in sorted(folder.rglob("*")) if path.is_file() for header in read_headers(path, folder)[1]]
    assert [refusal(header) for header in found] == [None] * 24
    assert all(header.unnamed for header in found)
    assert len({header.study_uid for header in found}) == 1
    assert len({header.series_uid for header in found}) == 2
    assert "a" not in {header.series_uid for header in found}


def test_a_slice_that_has_no_place_is_a_fault_and_a_scout_is_none(tmp_path: Path) -> None:
    placed = write(tmp_path / "a", Scan(count=1, tags={"ImagePositionPatient": None}))[0]
    assert refusal(placed) == fault(placed) == "without ImagePositionPatient"
    scout = write(tmp_path / "b", Scan(count=1, tags={"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}))[0]
    assert refusal(scout) != fault(scout)


@pytest.mark.parametrize("axes", [(0, 0, 0, 0, 0, 0), (1, 0, 0, 1, 0, 0), (2, 0, 0, 0, 2, 0), AXIAL])
def test_directions_must_span_a_plane(tmp_path: Path, axes: tuple[float, ...]) -> None:
    found = write(
        tmp_path, Scan(count=1), lambda index, dataset: setattr(dataset, "ImageOrientationPatient", list(axes))
    )
    assert (refusal(found[0]) is None) == (axes == AXIAL)
