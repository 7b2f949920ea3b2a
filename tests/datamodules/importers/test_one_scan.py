"""One scan is cut exactly as a cohort's importer cuts it, from NIfTI and from DICOM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules.errors import DataError
from datamodules.importers.nifti.manifest import ManifestSource
from datamodules.importers.one_scan import Place, read_scan
from datamodules.importers.plan import CohortPlan
from datamodules.volumes.contract import PreprocessingContract
from tests.datamodules.importers.dicom_phantom import KIDNEYS_RAS_MM, RAW_ID, Scan, segmentation
from tests.datamodules.importers.nifti_phantom import AFFINE, SHAPE, kidney, labels, save, scan_hu, tumor

CONTRACT = PreprocessingContract(grid=(10, 14, 14))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The phantom as NIfTI: scan.nii.gz, mask.nii.gz, and binary masks."""
    folder = tmp_path_factory.mktemp("nifti")
    save(folder / "scan.nii.gz", scan_hu(), axes="LPS")
    save(folder / "mask.nii.gz", labels(), axes="PIR")
    for side in ("left", "right"):
        save(folder / "parts" / f"kidney_{side}.nii.gz", kidney(side).astype(np.uint8))
    save(folder / "parts" / "tumor.nii.gz", tumor().astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def imported(files: Path):
    """The same scan as a manifest's importer cuts it."""
    row = {"patient_id": "p", "study_id": "e", "series_id": "s", "center": "A", "phase": "venous"}
    row |= {"image": "scan.nii.gz", "mask": "mask.nii.gz"}
    pd.DataFrame([row]).to_csv(files / "manifest.csv", index=False)
    return ManifestSource(files / "manifest.csv", CohortPlan("one")).load("p", CONTRACT)


@pytest.mark.parametrize("kind", ["label map", "folder", "several masks"])
def test_a_nifti_scan_is_cut_as_the_importer_cuts_it(files: Path, imported, kind: str) -> None:
    masks = {
        "label map": (files / "mask.nii.gz",),
        "folder": (files / "parts",),
        "several masks": tuple(sorted((files / "parts").iterdir())),
    }
    found, _ = read_scan(files / "scan.nii.gz", CONTRACT, Place(masks[kind]), "venous")
    assert [entry.side for entry in found] == ["left", "right"]
    for entry, volume, mask, row in zip(found, imported.volumes, imported.masks, imported.rows["kidneys"], strict=True):
        assert (entry.side, entry.views[0].phase) == (volume.side, "venous")
        np.testing.assert_array_equal(entry.views[0].image, volume.image)
        np.testing.assert_array_equal(entry.labels, mask.labels)
        assert entry.measures["kidney_volume_ml"] == pytest.approx(row["kidney_volume_ml"])
    assert found[0].measures["tumor_volume_ml"] > 0


def test_boxes_give_the_same_regions_and_no_labels(files: Path, imported) -> None:
    boxes = {}
    for side, center in KIDNEYS_RAS_MM.items():
        points = np.argwhere(kidney(side)) @ AFFINE[:3, :3].T + AFFINE[:3, 3]
        boxes[side] = " ".join(map(str, [*points.min(axis=0), *points.max(axis=0)]))
        assert points.min(axis=0)[2] < center[2] < points.max(axis=0)[2]
    found, _ = read_scan(files / "scan.nii.gz", CONTRACT, Place(boxes=boxes))
    for entry, volume in zip(found, imported.volumes, strict=True):
        np.testing.assert_array_equal(entry.views[0].image, volume.image)
        assert entry.labels is None
        assert entry.views[0].phase is None


def scanner(folder: Path, **settings: object) -> Scan:
    scan = Scan(**settings)  # type: ignore[arg-type]
    scan.write(folder)
    return scan


def test_a_dicom_folder_shows_its_kidneys_by_its_own_segmentation(tmp_path: Path) -> None:
    scan = scanner(tmp_path / "in" / "venous")
    scanner(tmp_path / "in" / "arterial", series=f"{scan.series}.2", description="ABD ARTERIAL", seed=1)
    segmentation(scan).save_as(tmp_path / "in" / "seg", enforce_file_format=True)
    found, notes = read_scan(tmp_path / "in", CONTRACT, Place())
    assert [entry.side for entry in found] == ["left", "right"]
    assert [{view.phase for view in entry.views} for entry in found] == [{"venous", "arterial"}] * 2
    assert all(view.image.shape == CONTRACT.grid for entry in found for view in entry.views)
    assert not any(RAW_ID in note for note in notes)


@pytest.mark.parametrize("kind", ["label map", "several masks", "boxes"])
def test_a_dicom_folder_takes_masks_and_boxes(tmp_path: Path, files: Path, kind: str) -> None:
    scanner(tmp_path / "in", description="NO WORDS")
    box = {
        side: " ".join(map(str, np.ravel([np.subtract(c, 20), np.add(c, 20)]))) for side, c in KIDNEYS_RAS_MM.items()
    }
    places = {
        "label map": Place((files / "mask.nii.gz",)),
        "several masks": Place(tuple(sorted((files / "parts").iterdir()))),
        "boxes": Place(boxes=box),
    }
    found, _ = read_scan(tmp_path / "in", CONTRACT, places[kind], "delayed")
    assert [(entry.side, entry.views[0].phase) for entry in found] == [("left", "delayed"), ("right", "delayed")]
    # The same body from another scanner grid: the bright kidney lies in the middle of its region.
    middle = found[1].views[0].image[4:6, 6:8, 6:8]
    assert np.median(middle) > 50


def test_what_cannot_be_used_is_refused_in_one_sentence(tmp_path: Path, files: Path) -> None:
    scan = files / "scan.nii.gz"
    with pytest.raises(DataError, match="without a mask and without a box"):
        read_scan(scan, CONTRACT, Place())
    with pytest.raises(DataError, match="The scan was not found"):
        read_scan(tmp_path / "none.nii.gz", CONTRACT, Place((files / "mask.nii.gz",)))
    with pytest.raises(DataError, match="1 of 1 masks were not found"):
        Place((tmp_path / "none.nii.gz",))
    with pytest.raises(DataError, match="side 'top'"):
        Place(boxes={"top": "0 0 0 1 1 1"})
    with pytest.raises(DataError, match="six numbers"):
        Place(boxes={"left": "0 0 0"})
    with pytest.raises(DataError, match="Phase 'portal' was given; expected one of non_contrast"):
        read_scan(scan, CONTRACT, Place((files / "mask.nii.gz",)), "portal")
    empty = save(tmp_path / "empty.nii.gz", np.zeros(SHAPE, np.uint8))
    with pytest.raises(DataError, match="the mask holds no kidney"):
        read_scan(scan, CONTRACT, Place((empty,)))
    scanner(tmp_path / "two" / "a")
    scanner(tmp_path / "two" / "b", patient="other", study="1.2.826.0.1.3680043.8.498.2", series="1.2.826.0.1.9")
    with pytest.raises(DataError, match="files of 2 patients"):
        read_scan(tmp_path / "two", CONTRACT, Place((files / "mask.nii.gz",)))
    scanner(tmp_path / "unknown", description="NO WORDS")
    with pytest.raises(DataError, match="contrast phase is unknown"):
        read_scan(tmp_path / "unknown", CONTRACT, Place((files / "mask.nii.gz",)))


@pytest.mark.real_data
def test_a_real_ct_with_both_kidneys(real_data: Path) -> None:
    samples = real_data / "ct_samples"
    masks = tuple(samples / f"kidney_{side}.nii.gz" for side in ("left", "right"))
    contract = PreprocessingContract(grid=(40, 48, 48))
    found, _ = read_scan(samples / "ct_with_kidneys_3mm.nii.gz", contract, Place(masks), "non_contrast")
    assert [entry.side for entry in found] == ["left", "right"]
    assert found[0].measures["kidney_volume_ml"] == pytest.approx(99.25, abs=0.1)
    for entry in found:
        assert 0 < np.median(entry.views[0].image[entry.labels == 1]) < 40
