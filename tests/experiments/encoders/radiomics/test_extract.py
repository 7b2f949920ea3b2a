"""Features are those of IBSI and of the library's own call."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.errors import DataError
from experiments.encoders.radiomics.extract import lesion_mask, mask_features, organ_mask, quiet_library, shape_features
from experiments.runs.baseline import RadiomicsSettings

# The digital phantom of IBSI, grey levels of 4 slices of 4 x 5 voxels of 2 mm; 0 is outside the region.
DIGITAL = np.array(
    [
        [[1, 4, 4, 1, 1], [1, 4, 6, 1, 1], [4, 1, 6, 4, 1], [4, 4, 6, 4, 1]],
        [[1, 4, 4, 1, 1], [1, 1, 6, 1, 1], [0, 1, 3, 1, 1], [4, 4, 6, 1, 1]],
        [[1, 4, 4, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 1, 1], [1, 1, 6, 1, 1]],
        [[1, 4, 4, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 6, 1, 1]],
    ]
)
# Reference values of the consensus (Zwanenburg et al., The image biomarker standardisation initiative, 3D, merged).
REFERENCE = {
    "stat_mean": 2.15,
    "stat_var": 3.05,
    "stat_skew": 1.08,
    "stat_kurt": -0.355,
    "stat_energy": 567.0,
    "cm_joint_avg": 2.15,
    "cm_contrast": 5.12,
    "cm_joint_entr": 2.57,
    "szm_sze": 0.255,
    "szm_lze": 550.0,
    "szm_z_perc": 0.0676,
    "ngt_contrast": 0.584,
    "ngt_busyness": 6.54,
}
SHAPE = {"morph_volume": 556.0, "morph_vol_approx": 592.0, "morph_area_mesh": 388.0, "morph_sphericity": 0.843}
# Bins of one grey level from 0.5 on, so that levels stay what they are.
SETTINGS = RadiomicsSettings(spacing_mm=0, range_hu=(0.5, 10.0), bin_width_hu=1.0)
TEXTURES = ["statistics", "glcm", "glszm", "ngtdm"]


@pytest.fixture(scope="module")
def digital() -> dict[str, float]:
    with quiet_library():
        found = mask_features(DIGITAL, DIGITAL > 0, (2.0, 2.0, 2.0), TEXTURES, SETTINGS)
        return {**found, **shape_features(DIGITAL > 0, (2.0, 2.0, 2.0), SETTINGS)}


@pytest.mark.parametrize(("name", "value"), [*REFERENCE.items(), *SHAPE.items()])
def test_reference_values_of_ibsi(digital: dict[str, float], name: str, value: float) -> None:
    assert digital[name] == pytest.approx(value, rel=0.006)


def test_equal_to_the_librarys_own_call_wherever_the_mask_lies() -> None:
    from mirp import extract_features

    image = np.random.default_rng(3).normal(40, 60, (13, 13, 13)).round().astype(np.int16)
    mask = np.zeros(image.shape, dtype=bool)
    mask[4:9, 4:9, 4:9] = True
    settings = RadiomicsSettings(spacing_mm=0.8)
    with quiet_library():
        ours = mask_features(image, mask, (1.0, 1.0, 1.0), ["statistics", "glszm"], settings)
        padded = [np.pad(array, ((2, 0), (0, 1), (3, 3))) for array in (image, mask)]
        moved = mask_features(padded[0], padded[1], (1.0, 1.0, 1.0), ["statistics", "glszm"], settings)
        (table,) = extract_features(
            image=image.astype(np.float32),
            mask=mask.astype(np.uint8),
            image_modality="ct",
            by_slice=False,
            new_spacing=0.8,
            resegmentation_intensity_range=[-200.0, 300.0],
            base_feature_families=["statistics", "glszm"],
            base_discretisation_method="fixed_bin_size",
            base_discretisation_bin_width=25.0,
        )
    names = [str(name) for name in table if str(name).startswith(("stat_", "szm_"))]
    theirs = {name.split("_3d_fbs")[0]: float(table[name].iloc[0]) for name in names}
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert moved == ours


def test_lengths_are_in_mm_along_every_axis() -> None:
    mask = np.zeros((12, 12, 12), dtype=bool)
    mask[2:8, 4:8, 4:7] = True
    with quiet_library():
        found = shape_features(mask, (4.0, 2.5, 2.0), RadiomicsSettings(spacing_mm=0))
    assert found["morph_vol_approx"] == pytest.approx(6 * 4 * 3 * 4.0 * 2.5 * 2.0)
    axes = [found[f"morph_pca_{name}_axis"] for name in ("maj", "min", "least")]
    spread = [4 * step * np.sqrt((count**2 - 1) / 12) for step, count in ((4.0, 6), (2.5, 4), (2.0, 3))]
    assert axes == pytest.approx(spread, rel=0.02)


def test_the_index_lesion_is_the_largest_tumour() -> None:
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[1:11, 1:11, 1:6] = 1
    labels[2:4, 2:4, 2:4] = 2  # a small tumour
    labels[6:10, 6:10, 2:5] = 2  # a larger one
    labels[2:6, 6:9, 2:6] = 3  # a cyst that is larger still in one axis
    lesion = lesion_mask(labels, (4.0, 4.0, 4.0))
    assert lesion[7, 7, 3]
    assert not lesion[2, 2, 2]
    assert organ_mask(labels)[3, 7, 3]
    assert not lesion_mask(np.ones((4, 4, 4), np.uint8), (4.0, 4.0, 4.0)).any()


def test_the_hash_names_the_settings() -> None:
    assert RadiomicsSettings().hash == RadiomicsSettings(spacing_mm=3).hash
    assert RadiomicsSettings().hash != RadiomicsSettings(bin_width_hu=10).hash


@pytest.mark.parametrize(
    "wrong",
    [{"masks": {"liver": ["glcm"]}}, {"masks": {"lesion": ["gldzm"]}}, {"masks": {}}, {"range_hu": (3.0, 1.0)}],
)
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(DataError, match="expected"):
        RadiomicsSettings(**wrong)
