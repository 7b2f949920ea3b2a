"""SEG and RTSTRUCT objects: the masks that they show, held to highdicom and to the masks that were drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import torchio as tio
from pydicom.dataset import Dataset, FileDataset
from pydicom.sr.codedict import codes
from skimage.measure import find_contours

from datamodules.anatomy.tissues import Tissue
from datamodules.errors import DataError
from datamodules.importers.dicom.contours import read_contours
from datamodules.importers.dicom.headers import read_headers
from datamodules.importers.dicom.pixels import read_stack
from datamodules.importers.dicom.segmentation import Segmentation, read_seg
from datamodules.importers.dicom.series import split_series
from datamodules.importers.mask_grids import merge
from datamodules.importers.masks import KidneyMask
from datamodules.importers.part_names import meaning
from tests.datamodules.importers.dicom_phantom import KIDNEYS_RAS_MM, TUMOR_RAS_MM, Scan, base, block, segmentation

STEPS = {"1.2.826.0.1.3680043.8.498.1.9": 10.0}
"""Distance of the phantom's slices by its coordinate system."""


def saved(tmp_path: Path, dataset: FileDataset, name: str = "seg") -> Path:
    dataset.save_as(tmp_path / name, enforce_file_format=True)
    return tmp_path / name


def volumes_ml(mask: KidneyMask) -> dict[Tissue, float]:
    voxel = abs(np.linalg.det(mask.labels.affine[:3, :3])) / 1000
    return {tissue: float((mask.labels.data == tissue).sum() * voxel) for tissue in (Tissue.KIDNEY, Tissue.TUMOR)}


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> tio.ScalarImage:
    folder = tmp_path_factory.mktemp("ct")
    Scan().write(folder)
    headers = [header for path in sorted(folder.iterdir()) for header in read_headers(path, folder)[1]]
    (stack,) = split_series(headers, lambda first, second: False)
    return read_stack(stack, folder, "s", 5)[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Segmentation:
    found = read_seg(saved(tmp_path_factory.mktemp("seg"), segmentation(Scan())), "s", STEPS)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("name", "tissue", "side"),
    [
        ("Liver lesion", None, None),
        ("Hepatic cyst", None, None),
        ("Ovarian cyst", None, None),
        ("Lung cancer", None, None),
        ("Adrenal mass left", None, "left"),
        ("Neoplasm Liver", None, None),
        ("Lesion 1", Tissue.TUMOR, None),
        ("index_lesion", Tissue.TUMOR, None),
        ("GTV", None, None),
        ("GTV tumor", Tissue.TUMOR, None),
        ("Neoplasm Kidney", Tissue.TUMOR, None),
        ("ccRCC", Tissue.TUMOR, None),
        ("Clear cell carcinoma", Tissue.TUMOR, None),
        ("Cystic renal mass", Tissue.TUMOR, None),
        ("Cyst 2", Tissue.CYST, None),
        ("Kidney R", Tissue.KIDNEY, "right"),
        ("kidney_lt", Tissue.KIDNEY, "left"),
        ("Renal cortex", Tissue.KIDNEY, None),
        ("Kidney stone", None, None),
        ("Renal pelvis", None, None),
        ("Perirenal fat", None, None),
        ("Left and right kidney", Tissue.KIDNEY, None),
        ("Spleen", None, None),
    ],
)
def test_a_name_that_may_mean_another_organ_means_no_kidney(name: str, tissue: Tissue | None, side: str | None) -> None:
    assert meaning(name) == (tissue, side)


def test_segments_of_other_organs_are_left_out_and_counted(tmp_path: Path, whole: Segmentation) -> None:
    dataset = segmentation(Scan())
    dataset.SegmentSequence[1].SegmentLabel = "Liver lesion"
    found = read_seg(saved(tmp_path, dataset), "s", STEPS)
    assert found is not None
    assert volumes_ml(found.mask)[Tissue.TUMOR] == 0
    assert found.mask.notes == ("s: 1 of 2 segments are not of the kidney and were left out.",)
    for name in ("SegmentedPropertyTypeCodeSequence", "AnatomicRegionSequence"):
        dataset = segmentation(Scan())
        organ = Dataset()
        organ.CodeMeaning = "Liver"
        setattr(dataset.SegmentSequence[1], name, [organ])
        found = read_seg(saved(tmp_path, dataset), "s", STEPS)
        assert found is not None
        assert volumes_ml(found.mask)[Tissue.TUMOR] == 0


def without_empty(dataset: FileDataset, keep: Callable[[int], bool]) -> None:
    frames = dataset.pixel_array
    kept = [number for number in range(len(frames)) if keep(number)]
    dataset.PerFrameFunctionalGroupsSequence = [dataset.PerFrameFunctionalGroupsSequence[number] for number in kept]
    dataset.NumberOfFrames = len(kept)
    dataset.PixelData = pydicom.pixels.pack_bits(frames[kept].astype(np.uint8))


@pytest.mark.parametrize("steps", [STEPS, {}])
@pytest.mark.parametrize("states", [True, False])
def test_frames_that_were_left_out_are_empty_planes(tmp_path: Path, steps: dict[str, float], states: bool) -> None:
    """Planes 20 and 30 mm apart on slices 10 mm apart."""
    dataset = segmentation(Scan(count=24, step_mm=5.0))
    place = [
        round(float(own.PlanePositionSequence[0].ImagePositionPatient[2]), 3)
        for own in dataset.PerFrameFunctionalGroupsSequence
    ]
    levels = sorted(set(place))
    kept = {levels[0], levels[2], levels[5], levels[-1]}
    without_empty(dataset, lambda number: place[number] in kept)
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    if not states:
        del measures.SpacingBetweenSlices
        measures.SliceThickness = 5.0
    found = read_seg(saved(tmp_path, dataset), "s", dict.fromkeys(steps, 5.0))
    assert found is not None
    assert found.mask.labels.spacing[2] == pytest.approx(5.0)
    drawn = found.mask.labels.data[0].numpy().any(axis=(0, 1))
    assert drawn.sum() == len(kept)


@pytest.mark.parametrize("apart", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("steps", [STEPS, {}])
def test_planes_that_differ_by_rounding_are_one(
    tmp_path: Path, apart: float, steps: dict[str, float], whole: Segmentation
) -> None:
    dataset = segmentation(Scan())
    for own in dataset.PerFrameFunctionalGroupsSequence:
        if own.SegmentIdentificationSequence[0].ReferencedSegmentNumber == 2:
            place = own.PlanePositionSequence[0]
            x, y, z = place.ImagePositionPatient
            place.ImagePositionPatient = [x, y, float(z) + apart]
    found = read_seg(saved(tmp_path, dataset), "s", steps)
    assert found is not None
    assert found.mask.labels.spacing[2] == pytest.approx(10.0)
    np.testing.assert_array_equal(found.mask.labels.data, whole.mask.labels.data)


def test_planes_that_are_uneven_are_refused(tmp_path: Path) -> None:
    dataset = segmentation(Scan())
    del dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices
    for number, own in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        place = own.PlanePositionSequence[0]
        x, y, z = place.ImagePositionPatient
        place.ImagePositionPatient = [x, y, float(z) * 1.07 + 3.3 * (number % 3)]
    with pytest.raises(DataError, match="unevenly spaced"):
        read_seg(saved(tmp_path, dataset), "s", STEPS)


def part_of(number: int) -> FileDataset:
    """The object of one segment alone."""
    dataset = segmentation(Scan())
    numbers = [
        own.SegmentIdentificationSequence[0].ReferencedSegmentNumber for own in dataset.PerFrameFunctionalGroupsSequence
    ]
    without_empty(dataset, lambda place: numbers[place] == number)
    dataset.SegmentSequence = [dataset.SegmentSequence[number - 1]]
    return dataset


def read_all(tmp_path: Path, datasets: list[FileDataset]) -> list[KidneyMask]:
    found = [read_seg(saved(tmp_path, one, f"seg{number}"), "s", STEPS) for number, one in enumerate(datasets)]
    return [one.mask for one in found if one is not None]


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_kidney_and_mass_in_two_objects_are_one_mask(
    tmp_path: Path, order: tuple[int, int], whole: Segmentation
) -> None:
    joined = merge(read_all(tmp_path, [part_of(number) for number in order]), "s")
    assert volumes_ml(joined) == pytest.approx(volumes_ml(whole.mask))
    assert joined.notes == ()


def test_a_second_reading_of_the_same_is_left_out_with_a_note(tmp_path: Path, whole: Segmentation) -> None:
    joined = merge(read_all(tmp_path, [segmentation(Scan()), segmentation(Scan())]), "s")
    assert volumes_ml(joined) == pytest.approx(volumes_ml(whole.mask))
    assert "draws the same again" in joined.notes[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
@pytest.mark.parametrize("omitted", [True, False])
def test_objects_of_highdicom_are_read_as_highdicom_reads_them(tmp_path: Path, kind: str, omitted: bool) -> None:
    plain = Scan(count=12)
    sources = []
    for index in range(plain.count):
        dataset = plain.slice(index)
        dataset.PatientID, dataset.StudyID, dataset.SeriesNumber = "1", "1", 1
        for name in ("AccessionNumber", "StudyTime", "PositionReferenceIndicator"):
            setattr(dataset, name, "")
        sources.append(dataset)
    hu = np.stack([plain.plane(index)[1] for index in range(plain.count)])
    kidney, tumor = (hu > 80) & (hu < 200), (hu > 40) & (hu < 80)
    tumor[:, 8:] &= np.arange(12)[:, None, None] % 2 == 0
    segments = [
        hd.seg.SegmentDescription(
            number, label, codes.cid7150.Tissue, kind_of, hd.seg.SegmentAlgorithmTypeValues.MANUAL
        )
        for number, label, kind_of in ((1, "Kidney", codes.SCT.Kidney), (2, "Mass", codes.SCT.Mass))
    ]
    made = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=np.stack([kidney, tumor], axis=-1).astype(np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues[kind],
        segment_descriptions=segments,
        series_instance_uid=hd.UID(),
        series_number=2,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="m",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=omitted,
    )
    path = saved(tmp_path, made)
    found = read_seg(path, "s", STEPS)
    assert found is not None
    theirs = hd.seg.segread(path).get_volume(combine_segments=False, rescale_fractional=kind == "FRACTIONAL")
    ours = found.mask.labels
    turn = np.diag([-1.0, -1.0, 1.0, 1.0]) @ theirs.affine
    for number, tissue in ((1, Tissue.KIDNEY), (2, Tissue.TUMOR)):
        points = np.argwhere(theirs.array[..., number - 1] > 0)
        placed = points @ turn[:3, :3].T + turn[:3, 3]
        own = np.argwhere(ours.data[0].numpy() == tissue) @ ours.affine[:3, :3].T + ours.affine[:3, 3]
        assert sorted(map(tuple, np.round(placed, 3))) == sorted(map(tuple, np.round(own, 3)))


@pytest.mark.parametrize("name", ["SegmentSequence", "PerFrameFunctionalGroupsSequence", "Rows", "PixelData"])
def test_a_damaged_object_is_refused_in_words(tmp_path: Path, name: str) -> None:
    dataset = segmentation(Scan())
    delattr(dataset, name)
    with pytest.raises(DataError, match="s: the segmentation object is damaged"):
        read_seg(saved(tmp_path, dataset), "s", STEPS)


def structure_set(
    scan: tio.ScalarImage, every: int = 1, names: tuple[str, ...] = ("Kidney_L", "Kidney_R", "Mass", "Spine")
) -> FileDataset:
    """Both kidneys and the tumour as contours on every n-th slice, and a structure that is no kidney."""
    dataset = base(Scan(series="1.2.3.4", modality="RTSTRUCT", sop_class="1.2.840.10008.5.1.4.1.1.481.3"))
    shape, affine = scan.spatial_shape, scan.affine
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) @ affine[:3, :3].T + affine[:3, 3]
    parts = [block(grid, KIDNEYS_RAS_MM[side], (20, 20, 30)) for side in ("left", "right")]
    parts += [block(grid, TUMOR_RAS_MM, (12, 12, 15)), block(grid, (0, -40, 0), (12, 12, 100))]
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    for number, (name, part) in enumerate(zip(names, parts, strict=True), start=1):
        roi, contours = Dataset(), Dataset()
        roi.ROINumber = contours.ReferencedROINumber = number
        roi.ROIName = name
        contours.ContourSequence = []
        for place in range(0, shape[2], every):
            for line in find_contours(part[:, :, place].astype(float), 0.5):
                points = np.column_stack([line, np.full(len(line), place)]) @ affine[:3, :3].T + affine[:3, 3]
                one = Dataset()
                one.ContourGeometricType, one.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
                one.ContourData = [round(float(value), 3) for value in (points * (-1, -1, 1)).ravel()]
                contours.ContourSequence.append(one)
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(contours)
    return dataset


@pytest.mark.parametrize("every", [1, 2])
def test_contours_are_filled_on_the_slices_of_their_scan(tmp_path: Path, scan: tio.ScalarImage, every: int) -> None:
    found = read_contours(saved(tmp_path, structure_set(scan, every)), "r")
    assert found is not None
    mask = found.on(scan, "r")
    volumes = volumes_ml(mask)
    assert volumes[Tissue.TUMOR] > 5
    assert volumes[Tissue.KIDNEY] > 100
    assert mask.sides is not None
    assert set(np.unique(mask.sides)) == {0, 1, 2}
    notes = " ".join(mask.notes)
    assert "1 of 4 structures are not of the kidney" in notes
    assert ("contours stand on every 2th slice" in notes) == (every == 2)
    if every == 1:
        grid = np.argwhere(mask.labels.data[0].numpy() == Tissue.TUMOR) @ scan.affine[:3, :3].T + scan.affine[:3, 3]
        assert block(grid, TUMOR_RAS_MM, (12, 12, 15)).all()


def test_a_contour_inside_another_is_a_hole(tmp_path: Path, scan: tio.ScalarImage) -> None:
    dataset = structure_set(scan)
    whole = read_contours(saved(tmp_path, dataset, "whole"), "r")
    outer = dataset.ROIContourSequence[0].ContourSequence
    for one in list(outer):
        inner = Dataset()
        points = np.array(one.ContourData, dtype=float).reshape(-1, 3)
        middle = points.mean(axis=0)
        inner.ContourGeometricType = "CLOSED_PLANAR"
        inner.ContourData = [round(float(value), 3) for value in (middle + (points - middle) * 0.5).ravel()]
        outer.append(inner)
    holed = read_contours(saved(tmp_path, dataset, "holed"), "r")
    assert whole is not None
    assert holed is not None
    assert volumes_ml(holed.on(scan, "r"))[Tissue.KIDNEY] < volumes_ml(whole.on(scan, "r"))[Tissue.KIDNEY]


@pytest.mark.parametrize("name", ["ROIContourSequence", "StructureSetROISequence"])
def test_a_damaged_structure_set_is_refused_in_words(tmp_path: Path, scan: tio.ScalarImage, name: str) -> None:
    dataset = structure_set(scan)
    delattr(dataset, name)
    with pytest.raises(DataError, match="r: the structure set is damaged"):
        read_contours(saved(tmp_path, dataset), "r")


def test_contours_of_another_scan_are_refused(tmp_path: Path, scan: tio.ScalarImage) -> None:
    dataset = structure_set(scan)
    for item in dataset.ROIContourSequence:
        for one in item.ContourSequence:
            points = np.array(one.ContourData, dtype=float).reshape(-1, 3)
            one.ContourData = [round(float(value), 3) for value in (points + np.array([0, 0, 500])).ravel()]
    found = read_contours(saved(tmp_path, dataset), "r")
    assert found is not None
    with pytest.raises(DataError, match=r"100% of the contours of the structure set lie outside the scan"):
        found.on(scan, "r")
