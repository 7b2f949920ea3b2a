"""Masks: names and codes, programs' folders, grids that fit or do not, and the sides of kidneys."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torchio as tio

from datamodules.anatomy.tissues import Tissue
from datamodules.errors import DataError
from datamodules.importers.locate import locate_kidneys, parse_box
from datamodules.importers.mask_grids import fit
from datamodules.importers.masks import (
    SIDE_CODES,
    KidneyMask,
    codes_in,
    compose,
    find_segmentation,
    mapping,
    read_binary_masks,
    read_mask,
    read_segmentation,
)
from datamodules.importers.part_names import meaning
from tests.datamodules.importers.nifti_phantom import AFFINE, kidney, labels, save, scan_hu, tumor


@pytest.fixture
def image() -> tio.ScalarImage:
    return tio.ScalarImage(tensor=scan_hu()[None], affine=AFFINE)


@pytest.mark.parametrize(
    ("name", "tissue", "side"),
    [
        ("kidney_left", Tissue.KIDNEY, "left"),
        ("Right Kidney", Tissue.KIDNEY, "right"),
        ("kidney_cyst_left", Tissue.CYST, "left"),
        ("Kidney tumour", Tissue.TUMOR, None),
        ("Mass", Tissue.TUMOR, None),
        ("Renal cell carcinoma right", Tissue.TUMOR, "right"),
        ("adrenal_gland_left", None, "left"),
        ("renal vein", None, None),
        ("liver", None, None),
    ],
)
def test_what_a_name_means(name: str, tissue: Tissue | None, side: str | None) -> None:
    assert meaning(name) == (tissue, side)


def test_codes_of_kits_and_of_the_user(tmp_path: Path) -> None:
    path = save(tmp_path / "m.nii.gz", labels())
    mask = read_mask(path, "m")
    np.testing.assert_array_equal(np.unique(mask.labels.data), [0, Tissue.KIDNEY, Tissue.TUMOR])
    assert mask.sides is None
    path = save(tmp_path / "m.nii.gz", labels(left=7, right=8, mass=9))
    with pytest.raises(DataError, match=r"m: codes \[7, 8, 9\] were found"):
        read_mask(path, "m")
    named = read_mask(path, "m", {7: "left kidney", 8: "right kidney", 9: "tumor"})
    np.testing.assert_array_equal(named.labels.data, mask.labels.data)
    assert named.sides is not None
    with pytest.raises(DataError, match="Label 7 is named 'spleen'"):
        mapping({7: "spleen"})
    with pytest.raises(DataError, match="Labels 'itk' were asked for; expected one of kits, totalsegmentator"):
        mapping("itk")


def test_a_totalsegmentator_file_with_all_organs(tmp_path: Path, image: tio.ScalarImage) -> None:
    array = labels(left=3, right=2, mass=23)
    array[0, 0, 0] = 5  # liver
    mask = read_mask(save(tmp_path / "m.nii.gz", array), "m", "totalsegmentator")
    kidneys, notes = locate_kidneys(mask, image, "m")
    assert [found.side for found in kidneys] == ["left", "right"]
    assert kidneys[0].measures["cyst_volume_ml"] > 0
    assert notes == []


def test_output_folders_of_programs(tmp_path: Path, image: tio.ScalarImage) -> None:
    folder = tmp_path / "masks"
    save(folder / "s1.nii.gz", labels())
    for name, array in {
        "kidney_left": kidney("left"),
        "kidney_right": kidney("right"),
        "liver": kidney("right"),
        "liver_tumor": kidney("right"),
        "adrenal_gland_left": kidney("right"),
        "tumor": tumor(),
    }.items():
        save(folder / "s2" / f"{name}.nii.gz", array.astype(np.uint8))
    one, many = (find_segmentation(folder, ["none", name]) for name in ("s1", "s2"))
    assert one is not None
    assert many is not None
    assert find_segmentation(folder, ["s3"]) is None
    single, folded = read_segmentation(one, "m"), read_segmentation(many, "m")
    np.testing.assert_array_equal(single.labels.data, folded.labels.data)
    assert [k.center_ras_mm for k in locate_kidneys(single, image, "m")[0]] == [
        k.center_ras_mm for k in locate_kidneys(folded, image, "m")[0]
    ]


def test_a_mask_without_a_kidney_is_refused(tmp_path: Path, image: tio.ScalarImage) -> None:
    with pytest.raises(DataError, match="the mask holds no kidney"):
        read_mask(save(tmp_path / "m.nii.gz", 0 * labels()), "m")
    crumb = 0 * labels()
    crumb[10, 10, 10] = 1
    with pytest.raises(DataError, match="large enough to be a kidney"):
        locate_kidneys(read_mask(save(tmp_path / "m.nii.gz", crumb), "m"), image, "m")


def test_a_mask_on_another_grid_is_resampled_with_a_note(tmp_path: Path, image: tio.ScalarImage) -> None:
    reference = locate_kidneys(fit(read_mask(save(tmp_path / "a.nii.gz", labels()), "m"), image, "m"), image, "m")[0]
    fine = np.repeat(np.repeat(labels(), 2, axis=0), 2, axis=1)
    affine = AFFINE @ np.diag([0.5, 0.5, 1.0, 1.0])
    affine[:3, 3] -= (2.0, 2.0, 0.0)
    mask = fit(read_mask(save(tmp_path / "b.nii.gz", fine, affine), "m"), image, "m")
    assert mask.notes == ("m: the mask has another grid and was resampled (nearest label).",)
    for one, other in zip(reference, locate_kidneys(mask, image, "m")[0], strict=True):
        np.testing.assert_allclose(one.center_ras_mm, other.center_ras_mm, atol=1e-3)
        assert one.measures["kidney_volume_ml"] == pytest.approx(other.measures["kidney_volume_ml"])
    cropped = AFFINE.copy()
    cropped[:3, 3] += 16.0
    assert fit(read_mask(save(tmp_path / "c.nii.gz", labels()[2:, 2:, 2:], cropped), "m"), image, "m").notes


def test_a_mask_of_another_shape_or_place_is_refused(tmp_path: Path, image: tio.ScalarImage) -> None:
    shorter = read_mask(save(tmp_path / "a.nii.gz", labels()[:, :, :-2]), "m")
    with pytest.raises(DataError, match=r"a mask of \(32, 28, 18\) voxels was found on a scan of \(32, 28, 20\)"):
        fit(shorter, image, "m")
    away = AFFINE.copy()
    away[2, 3] += 200.0
    with pytest.raises(DataError, match="its labels lie outside the scan"):
        fit(read_mask(save(tmp_path / "b.nii.gz", labels(), away), "m"), image, "m")


@pytest.mark.parametrize("order", ["C", "F"])
def test_painting_along_memory_gives_what_painting_voxel_by_voxel_gave(order: str) -> None:
    codes = np.asarray(np.random.default_rng(0).integers(0, 5, (1, 7, 6, 5)), dtype=np.uint8, order=order)  # type: ignore[call-overload]
    names = {1: "kidney left", 2: "tumor", 3: "cyst right", 4: "kidney"}
    overlapping = [(name, (codes == code) | (codes == 1 + code % 4)) for code, name in names.items()]
    data, sides = np.zeros((2, 1, 7, 6, 5), np.uint8)
    for tissue in (Tissue.KIDNEY, Tissue.CYST, Tissue.TUMOR):
        for name, mask in overlapping:
            own, side = meaning(name)
            if own == tissue:
                data[mask] = tissue
                sides[mask] = sides[mask] if side is None else SIDE_CODES[side]
    made = compose(overlapping, AFFINE, (7, 6, 5), "m")
    np.testing.assert_array_equal(made.labels.data.numpy(), data)
    assert made.sides is not None
    np.testing.assert_array_equal(made.sides, sides)
    np.testing.assert_array_equal(made.labels.affine, AFFINE)


@pytest.mark.parametrize("chunk", [1, 7, 1 << 18])
def test_codes_are_counted_in_chunks_of_any_size(chunk: int) -> None:
    array = np.zeros((9, 8, 7), np.uint8).T
    array[1, 2, 3], array[6, 7, 8], array[0, 0, 0] = 3, 255, 1
    assert codes_in(array, chunk) == [1, 3, 255]
    assert codes_in(array[::2], chunk) == [1, 255]
    assert codes_in(0 * array, chunk) == []


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_kidney_on_its_own_has_the_side_of_its_half_of_the_body(image: tio.ScalarImage, side: str) -> None:
    alone = KidneyMask(tio.LabelMap(tensor=kidney(side)[None].astype(np.uint8), affine=AFFINE))
    (found,), _ = locate_kidneys(alone, image, "m")
    assert found.side == side
    assert (found.center_ras_mm[0] < 0) == (side == "left")


def test_named_sides_are_believed_and_disagreement_is_noted(image: tio.ScalarImage) -> None:
    data = tio.LabelMap(tensor=labels()[None], affine=AFFINE)
    swapped = (1 * kidney("right") + 2 * kidney("left")).astype(np.uint8)[None]
    kidneys, notes = locate_kidneys(KidneyMask(data, swapped), image, "m")
    assert [found.side for found in kidneys] == ["right", "left"]
    assert "although the positions say otherwise" in notes[0]
    both_left = (kidney("right") | kidney("left")).astype(np.uint8)[None]
    kidneys, notes = locate_kidneys(KidneyMask(data, both_left), image, "m")
    assert [found.side for found in kidneys] == ["left", "right"]
    assert "names both kidneys left" in notes[0]


@pytest.mark.parametrize("text", ["1 2 3", "a b c d e f", "0 0 0 0 5 5", "1 2 3 4 5 nan"])
def test_a_bad_box_is_named(text: str) -> None:
    with pytest.raises(DataError, match=r"boxes, row 2: .* expected a box of six numbers"):
        parse_box(text, "boxes, row 2")


def test_a_mask_of_one_part_holds_one_code(tmp_path: Path) -> None:
    save(tmp_path / "kidney.nii.gz", labels())
    with pytest.raises(DataError, match=r"kidney holds the codes \[1, 2\]; expected one"):
        read_binary_masks([("kidney", tmp_path / "kidney.nii.gz")], "row 2")


def test_a_speck_far_from_the_kidneys_moves_no_region(image: tio.ScalarImage, tmp_path: Path) -> None:
    clean = read_mask(save(tmp_path / "clean.nii.gz", labels()), "row 2")
    dotted = labels()
    dotted[0, 0, 0] = dotted[1, 27, 19] = 1
    noisy = read_mask(save(tmp_path / "noisy.nii.gz", dotted), "row 2")
    expected, _ = locate_kidneys(clean, image, "row 2")
    found, notes = locate_kidneys(noisy, image, "row 2")
    assert [kidney.center_ras_mm for kidney in found] == [kidney.center_ras_mm for kidney in expected]
    assert [kidney.measures for kidney in found] == [kidney.measures for kidney in expected]
    assert notes == ["row 2: 2 specks of the mask (1 ml) lie more than 20 mm from the kidneys and were left out."]


def test_a_fragment_near_its_kidney_stays(image: tio.ScalarImage, tmp_path: Path) -> None:
    x, y, z = np.argwhere(kidney("left"))[-1]
    near = labels()
    near[x, y, z + 2] = 1
    mask = read_mask(save(tmp_path / "near.nii.gz", near), "row 2")
    _, notes = locate_kidneys(mask, image, "row 2")
    assert not any("specks" in note for note in notes)
