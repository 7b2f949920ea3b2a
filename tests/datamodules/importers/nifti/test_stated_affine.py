"""NIfTI headers that say two things, and label maps whose codes are not quite whole."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from datamodules.errors import DataError
from datamodules.importers.masks import read_mask
from datamodules.importers.nifti.scan import read_nifti, read_nifti_labels
from tests.datamodules.importers.nifti_phantom import AFFINE, labels, scan_hu

SMALL = np.diag([1.0, 1.0, 1.0, 1.0])
MIRRORED = np.diag([-1.0, 1.0, 1.0, 1.0]) @ AFFINE
UPSIDE_DOWN = np.diag([1.0, 1.0, -1.0, 1.0]) @ AFFINE
OTHER_SIZE = AFFINE @ np.diag([0.5, 0.5, 1.0, 1.0])
TURNED = np.array([[0, -1.0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ AFFINE
MOVED = AFFINE + np.pad([[20.0], [0.0], [0.0]], ((0, 1), (3, 0)))


def saved(path: Path, data: np.ndarray, sform: np.ndarray | None, qform: np.ndarray | None) -> Path:
    image = nibabel.Nifti1Image(data, None)
    image.header.set_data_dtype(data.dtype)
    image.set_sform(sform, code=0 if sform is None else 1)
    image.set_qform(qform, code=0 if qform is None else 1)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize(
    ("sform", "qform", "taken", "note"),
    [
        (AFFINE, AFFINE, AFFINE, ""),
        (AFFINE, None, AFFINE, ""),
        (None, AFFINE, AFFINE, ""),
        (AFFINE + 1e-3, AFFINE, AFFINE + np.pad(np.full((3, 4), 1e-3), ((0, 1), (0, 0))), ""),
        (SMALL, AFFINE, AFFINE, "the sform is a default and the qform was taken"),
        (np.diag([-1.0, 1.0, 1.0, 1.0]), AFFINE, AFFINE, "the sform is a default"),
        (MOVED, AFFINE, MOVED, "sform and qform place the scan 20 mm apart"),
    ],
)
def test_one_geometry_is_taken_where_it_is_certain(
    tmp_path: Path, sform: np.ndarray | None, qform: np.ndarray | None, taken: np.ndarray, note: str
) -> None:
    sform = None if sform is None else np.vstack([sform[:3], [0, 0, 0, 1]])
    image, notes = read_nifti(saved(tmp_path / "a.nii.gz", scan_hu(), sform, qform), "a")
    np.testing.assert_allclose(image.affine[:3], taken[:3], atol=1e-3)
    assert note in " ".join(notes)
    assert bool(notes) == bool(note)


@pytest.mark.parametrize(
    ("sform", "qform", "message"),
    [
        (MIRRORED, AFFINE, "left and right are exchanged: LAS against RAS"),
        (UPSIDE_DOWN, AFFINE, "up and down are exchanged"),
        (OTHER_SIZE, AFFINE, "voxels of 4 x 4 x 8 mm by the sform and of 8 x 8 x 8 mm by the qform"),
        (TURNED, AFFINE, "are exchanged"),
        (None, None, "does not state its orientation"),
    ],
)
def test_two_geometries_are_refused_with_what_they_say(
    tmp_path: Path, sform: np.ndarray | None, qform: np.ndarray | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_nifti(saved(tmp_path / "a.nii.gz", scan_hu(), sform, qform), "a")
    with pytest.raises(DataError, match=message):
        read_nifti_labels(saved(tmp_path / "m.nii.gz", labels(), sform, qform), "m")


@pytest.mark.parametrize(("sizes", "refused"), [((8, 8, 8), False), ((1, 1, 1), False), ((5, 5, 3), True)])
def test_pixdim_beside_an_sform_alone(tmp_path: Path, sizes: tuple[float, ...], refused: bool) -> None:
    image = nibabel.Nifti1Image(scan_hu(), None)
    image.header.set_zooms(sizes)
    image.header.set_sform(AFFINE, code=1)
    image.header["qform_code"] = 0
    path = tmp_path / "a.nii"
    nibabel.save(image, path)
    content = bytearray(path.read_bytes())
    content[80:92] = np.array(sizes, dtype="<f4").tobytes()
    path.write_bytes(bytes(content))
    if refused:
        with pytest.raises(DataError, match="8 x 8 x 8 mm by the sform and 5 x 5 x 3 mm by pixdim"):
            read_nifti(path, "a")
    else:
        assert read_nifti(path, "a")[1] == []


def test_a_quaternion_that_is_none_does_not_hide_a_good_sform(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.nii", scan_hu(), AFFINE, AFFINE)
    content = bytearray(path.read_bytes())
    content[256:268] = np.array([2.0, 2.0, 2.0], dtype="<f4").tobytes()
    path.write_bytes(bytes(content))
    np.testing.assert_allclose(read_nifti(path, "a")[0].affine, AFFINE)


@pytest.mark.parametrize("error", [1.5e-5, -1.5e-5, 1e-3, 9e-3])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_codes_that_are_nearly_whole_are_whole(tmp_path: Path, error: float, kind: type) -> None:
    plain = read_mask(saved(tmp_path / "a.nii.gz", labels(), AFFINE, AFFINE), "a")
    near = read_mask(saved(tmp_path / "b.nii.gz", labels() * kind(1 + error / 2), AFFINE, AFFINE), "b")
    np.testing.assert_array_equal(near.labels.data, plain.labels.data)


def test_codes_that_a_library_scaled_are_whole(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(labels().astype(np.float64), AFFINE)
    image.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / "a.nii.gz")
    assert np.unique(np.asarray(nibabel.load(tmp_path / "a.nii.gz").dataobj))[1] != 1.0
    found, _ = read_nifti_labels(tmp_path / "a.nii.gz", "a")
    np.testing.assert_array_equal(found.data[0], labels())


@pytest.mark.parametrize("value", [0.5, 0.98, 1.02, -0.5])
def test_an_interpolated_mask_is_refused(tmp_path: Path, value: float) -> None:
    data = labels().astype(np.float32)
    data[0, 0, :5] = value
    with pytest.raises(DataError, match=rf"of the values are no whole numbers, such as {value:g}"):
        read_nifti_labels(saved(tmp_path / "a.nii.gz", data, AFFINE, AFFINE), "a")
