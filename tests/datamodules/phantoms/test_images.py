from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from datamodules.anatomy.rendering import CenterProtocol
from datamodules.anatomy.tissues import LESION, Tissue
from datamodules.cohort.columns import PHASES
from datamodules.phantoms.drawing import draw_labels
from datamodules.phantoms.facts import Patient, PhantomSeries
from datamodules.phantoms.imaging import image_kidney, resample_image, resample_labels
from datamodules.phantoms.patient_figure import draw_patient
from datamodules.phantoms.phantom_source import DemoSource
from datamodules.phantoms.surroundings import Grid
from datamodules.volumes.contract import PreprocessingContract

FINE = PreprocessingContract(extent_mm=(128.0, 120.0, 120.0), grid=(64, 60, 60))
PHASE_SERIES = [PhantomSeries(f"x-{phase}", phase, CenterProtocol(6.0, 1.6, 2.0)) for phase in PHASES]


def rendered(patient: Patient, side: str | None = None) -> tuple[dict[str, np.ndarray], np.ndarray]:
    images, labels = image_kidney(patient.anatomy, side or patient.index_side, PHASE_SERIES, FINE)
    return dict(zip(PHASES, images, strict=True)), labels


def first(patients: list[Patient], subtype: str, low_mm: float = 35.0) -> Patient:
    return next(
        patient
        for patient in patients
        if patient.clinical.subtype == subtype and 70 > patient.index_lesion.measures.diameter_mm > low_mm
    )


def test_tissues_have_plausible_hu(patients: list[Patient]) -> None:
    images, labels = rendered(first(patients, "clear cell renal cell carcinoma"))
    assert -125 < np.median(images["venous"][labels == Tissue.FAT]) < -80
    assert 15 < np.median(images["non_contrast"][labels == Tissue.KIDNEY]) < 50
    assert 140 < np.median(images["venous"][labels == Tissue.KIDNEY]) < 240
    assert np.median(images["arterial"][labels == Tissue.KIDNEY]) > 80
    assert np.median(images["delayed"][labels == Tissue.KIDNEY]) < np.median(images["venous"][labels == Tissue.KIDNEY])
    assert np.median(images["venous"][labels == Tissue.BONE]) > 100
    for image in images.values():
        assert image.min() >= -1024
        assert image.max() <= 3071


def test_visible_fat_is_negative_and_cysts_do_not_enhance(patients: list[Patient]) -> None:
    images, labels = rendered(first(patients, "angiomyolipoma"))
    assert np.percentile(images["venous"][labels == Tissue.MACROSCOPIC_FAT], 25) < -20
    images, labels = rendered(first(patients, "benign cyst", 30.0))
    fluid = labels == Tissue.CYST
    assert abs(np.median(images["venous"][fluid]) - np.median(images["non_contrast"][fluid])) < 20


def test_phases_show_one_anatomy(patients: list[Patient]) -> None:
    """What is heterogeneous in the arterial phase is heterogeneous in the venous one."""
    images, labels = rendered(first(patients, "clear cell renal cell carcinoma"))
    inside = labels == Tissue.TUMOR
    assert np.corrcoef(images["arterial"][inside], images["venous"][inside])[0, 1] > 0.5


def test_a_normal_kidney_holds_no_lesion_label(patients: list[Patient]) -> None:
    patient = next(p for p in patients if any(not kidney.lesions for kidney in p.anatomy.kidneys.values()))
    side = next(side for side, kidney in patient.anatomy.kidneys.items() if not kidney.lesions)
    _, labels = rendered(patient, side)
    assert not np.isin(labels, LESION).any()


def test_invasion_and_thrombus_are_drawn(patients: list[Patient]) -> None:
    for name, value, tissue in (
        ("thrombus", "renal_vein", Tissue.THROMBUS),
        ("perirenal", "invasion", Tissue.STRANDING),
        ("stones", True, Tissue.STONE),
        ("nodes", "enlarged", Tissue.SOFT_TISSUE),
    ):
        patient = next(p for p in patients if getattr(p.anatomy.kidneys[p.index_side], name) == value)
        grid = Grid.around((0.0, -20.0, 0.0), (180.0, 140.0, 300.0), 3.0)
        assert (draw_labels(patient.anatomy, grid) == tissue).any(), name


def test_left_and_right_are_where_the_patient_has_them(patients: list[Patient]) -> None:
    grid = Grid.around((0.0, 0.0, 0.0), (260.0, 240.0, 360.0), 4.0)
    labels = draw_labels(patients[0].anatomy, grid)
    across = {tissue: np.argwhere(labels == tissue)[:, 2].mean() for tissue in (Tissue.LIVER, Tissue.SPLEEN)}
    # W runs from the patient's left to the right, H from posterior to anterior.
    assert across[Tissue.LIVER] > labels.shape[2] / 2 > across[Tissue.SPLEEN]
    assert np.argwhere(labels == Tissue.BONE)[:, 1].mean() < labels.shape[1] / 2


def test_resampling_keeps_the_mean_and_the_place() -> None:
    image = np.zeros((80, 70, 70), dtype=np.int16)
    image[40:, :, 35:] = 1000
    small = resample_image(image, (40, 48, 48))
    assert small.mean() == pytest.approx(image.mean(), rel=0.01)
    assert small[30, 24, 40] == 1000
    assert small[10, 24, 40] == 0
    large = resample_image(image, (40, 140, 140))
    assert large.shape == (40, 140, 140)
    assert large[30, 70, 120] == 1000
    labels = resample_labels((image > 0).astype(np.uint8), (40, 48, 48))
    np.testing.assert_array_equal(labels, small > 500)


def test_the_figure_is_written(source: DemoSource, tmp_path: Path) -> None:
    draw_patient(source, "I1-0047", tmp_path / "patient.png")
    picture = matplotlib.image.imread(tmp_path / "patient.png")
    assert picture.shape[1] > 1000
    assert picture[..., :3].std() > 0.05
