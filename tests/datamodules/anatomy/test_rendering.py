from __future__ import annotations

import inspect

import numpy as np
import pytest

from datamodules.anatomy.appearance import Appearance, patient_tissues
from datamodules.anatomy.rendering import CenterProtocol, Scene, render
from datamodules.anatomy.tissues import Tissue
from datamodules.cohort.columns import PHASES

SPACING = (2.0, 2.0, 2.0)
QUIET = CenterProtocol(noise_hu=0.5, kernel_fwhm_mm=1.0, slice_thickness_mm=1.0)


def expert_mask() -> np.ndarray:
    """A kidney with a sinus and a tumour on unlabeled ground, as an expert's mask holds it."""
    z, y, x = np.mgrid[:56, :40, :44] * 2.0
    labels = np.zeros(z.shape, dtype=np.uint8)
    labels[((z - 56) / 48) ** 2 + ((y - 40) / 22) ** 2 + ((x - 44) / 27) ** 2 < 1] = Tissue.KIDNEY
    labels[((z - 56) / 18) ** 2 + ((y - 40) / 9) ** 2 + ((x - 68) / 20) ** 2 < 1] = Tissue.UNLABELED
    labels[((z - 80) / 14) ** 2 + ((y - 44) / 14) ** 2 + ((x - 24) / 14) ** 2 < 1] = Tissue.TUMOR
    return labels


def test_sees_no_clinical_field() -> None:
    arguments = set(inspect.signature(render).parameters)
    assert arguments == {"labels", "spacing_mm", "phase", "protocol", "seed", "tissues", "series"}


def test_same_arguments_give_the_same_voxels() -> None:
    first, second = (render(expert_mask(), SPACING, "arterial", CenterProtocol(), 7) for _ in range(2))
    assert first.dtype == np.int16
    assert first.shape == expert_mask().shape
    np.testing.assert_array_equal(first, second)


def test_series_differ_in_noise_only() -> None:
    scene = Scene(expert_mask(), SPACING, 7)
    first, second = (scene.render("venous", CenterProtocol(noise_hu=10.0), series).astype(float) for series in (0, 1))
    assert np.std(first - second) == pytest.approx(10.0 * np.sqrt(2.0), rel=0.05)
    assert abs(np.mean(first - second)) < 0.5


def test_phases_share_the_texture_of_a_tumour() -> None:
    labels = expert_mask()
    tissues = patient_tissues(3) | {Tissue.TUMOR: Appearance((34, 140, 115, 85), 5.0, 0.25, 7.0)}
    scene = Scene(labels, SPACING, 3, tissues=tissues)
    inside = labels == Tissue.TUMOR
    arterial, venous = (scene.render(phase, QUIET)[inside] for phase in ("arterial", "venous"))
    assert np.corrcoef(arterial, venous)[0, 1] > 0.9


def test_cortex_is_brighter_than_medulla_in_the_arterial_phase_alone() -> None:
    labels = expert_mask()
    z, y, x = np.mgrid[:56, :40, :44] * 2.0
    level = np.sqrt(((z - 56) / 48) ** 2 + ((y - 40) / 22) ** 2 + ((x - 44) / 27) ** 2)
    kidney = labels == Tissue.KIDNEY
    cortex, medulla = kidney & (level > 0.82) & (x < 40), kidney & (level < 0.45)
    scene = Scene(labels, SPACING, 5)
    arterial, venous = (scene.render(phase, QUIET) for phase in ("arterial", "venous"))
    assert arterial[cortex].mean() - arterial[medulla].mean() > 40
    assert abs(venous[cortex].mean() - venous[medulla].mean()) < 25


@pytest.mark.parametrize("kernel_mm", [1.0, 2.5])
def test_noise_has_the_standard_deviation_of_the_protocol(kernel_mm: float) -> None:
    labels = np.full((24, 32, 32), Tissue.LIVER, dtype=np.uint8)
    flat = {Tissue.LIVER: Appearance((60, 60, 60, 60), 0.0, 0.0)}
    image = render(labels, SPACING, "venous", CenterProtocol(12.0, kernel_mm, 3.0), 1, tissues=flat).astype(float)
    middle = image[3:-3, 3:-3, 3:-3]
    assert middle.std() == pytest.approx(12.0, rel=0.08)
    neighbours = np.corrcoef(middle[:, :, 1:].ravel(), middle[:, :, :-1].ravel())[0, 1]
    assert neighbours > 0.2 if kernel_mm > 2 else neighbours < 0.1


def test_thick_slices_blur_along_d_only() -> None:
    labels = np.full((40, 40, 12), Tissue.FAT, dtype=np.uint8)
    labels[20:, 20:] = Tissue.MUSCLE
    flat = {Tissue.FAT: Appearance((-100,) * 4, 0, 0), Tissue.MUSCLE: Appearance((60,) * 4, 0, 0)}
    protocol = CenterProtocol(0.1, 1.0, 10.0)
    image = render(labels, SPACING, "venous", protocol, 1, tissues=flat).astype(float)
    along_d, along_h = image[:, 35, 6], image[35, :, 6]
    assert np.abs(np.diff(along_d)).max() < 0.6 * np.abs(np.diff(along_h)).max()


def test_an_early_scan_shows_less_enhancement_and_unenhanced_images_do_not_change() -> None:
    labels = np.full((8, 8, 8), Tissue.AORTA, dtype=np.uint8)
    early, usual = CenterProtocol(timing_shift_s=-10.0), CenterProtocol()
    images = {
        (phase, number): render(labels, SPACING, phase, protocol, 1).mean()
        for phase in PHASES
        for number, protocol in enumerate((early, usual))
    }
    assert images["arterial", 0] < images["arterial", 1] - 30
    assert images["non_contrast", 0] == images["non_contrast", 1]


def test_unlabeled_ground_receives_fat_near_the_kidney_and_in_its_sinus() -> None:
    labels = expert_mask()
    scene = Scene(labels, SPACING, 9)
    assert not (scene.labels == Tissue.UNLABELED).any()
    np.testing.assert_array_equal(scene.labels[labels > 0], labels[labels > 0])
    assert scene.labels[28, 20, 30] in (Tissue.RENAL_SINUS, Tissue.FAT)
    assert scene.labels[28, 33, 22] == Tissue.FAT


def test_patients_differ_and_stay_within_plausible_limits() -> None:
    tumors = [patient_tissues(seed)[Tissue.TUMOR] for seed in range(60)]
    arterial = [tumor.hu[1] for tumor in tumors]
    assert min(arterial) < 85
    assert max(arterial) > 125
    assert all(20 < tumor.hu[0] < 50 for tumor in tumors)
    assert all(-130 < patient_tissues(seed)[Tissue.FAT].hu[0] < -85 for seed in range(60))
