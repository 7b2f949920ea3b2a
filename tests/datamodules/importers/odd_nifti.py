"""Odd NIfTI scans and masks, one function a kind: what converters and programs that draw kidneys leave behind.

Each kind changes `ct.nii.gz` or `mask.nii.gz` of a folder; what is drawn, is drawn from the generator it is handed.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from scipy import ndimage

from tests.datamodules.importers.nifti_phantom import AFFINE, labels, save, scan_hu
from tests.datamodules.importers.odd_dicom import Kind


def _image(path: Path) -> Any:
    return nibabel.load(path)


def _rewrite(path: Path, image: Any) -> None:
    image.set_sform(AFFINE, code=1)
    nibabel.save(image, path)


def kidneys_by_side(folder: Path, rng: np.random.Generator) -> None:
    """1 is the right kidney and 2 the left one, as many programs have it, and no tumour."""
    save(folder / "mask.nii.gz", labels(2, 1, 2) if rng.random() < 0.5 else labels(1, 2, 1))


def codes_exchanged(folder: Path, rng: np.random.Generator) -> None:
    """1 is the tumour and 2 the kidney."""
    save(folder / "mask.nii.gz", labels(2, 2, 1))


def one_kidney_undrawn(folder: Path, rng: np.random.Generator) -> None:
    save(folder / "mask.nii.gz", labels(1, 0, 2) if rng.random() < 0.5 else labels(0, 1, 0))


def mask_moved(folder: Path, rng: np.random.Generator) -> None:
    by = int(rng.choice([-6, -5, 5, 6]))
    save(folder / "mask.nii.gz", np.roll(labels(), by, axis=int(rng.integers(3))))


def mask_swollen(folder: Path, rng: np.random.Generator) -> None:
    save(folder / "mask.nii.gz", ndimage.grey_dilation(labels(), size=(5, 5, 5)))


def the_same_file_twice(folder: Path, rng: np.random.Generator) -> None:
    first, second = ("ct.nii.gz", "mask.nii.gz") if rng.random() < 0.5 else ("mask.nii.gz", "ct.nii.gz")
    (folder / second).write_bytes((folder / first).read_bytes())


def files_exchanged(folder: Path, rng: np.random.Generator) -> None:
    (folder / "ct.nii.gz").rename(folder / "x")
    (folder / "mask.nii.gz").rename(folder / "ct.nii.gz")
    (folder / "x").rename(folder / "mask.nii.gz")


def other_number_type(folder: Path, rng: np.random.Generator) -> None:
    """Right: any type of numbers, either order of bytes, either version of the format."""
    kind = str(rng.choice([">i2", "<i4", "<f8", ">f4", "<i8"]))
    cls = nibabel.Nifti2Image if rng.random() < 0.5 else nibabel.Nifti1Image
    header = cls.header_class(endianness=">" if kind.startswith(">") else "<")
    header.set_data_dtype(np.dtype(kind).newbyteorder("="))
    image = cls(scan_hu().astype(kind[1:]), AFFINE, header)
    image.set_data_dtype(np.dtype(kind))
    _rewrite(folder / "ct.nii.gz", image)


def scaled_storage(folder: Path, rng: np.random.Generator) -> None:
    """Right: a slope and an intercept in the header."""
    image = nibabel.Nifti1Image(scan_hu().astype(np.float32), AFFINE)
    image.set_data_dtype(np.uint16)
    _rewrite(folder / "ct.nii.gz", image)


def header_scale_spoiled(folder: Path, rng: np.random.Generator) -> None:
    """The slope or intercept in the header is another than the one that was written."""
    raw = bytearray(gzip.decompress((folder / "ct.nii.gz").read_bytes()))
    slope, intercept = ((2.0, 0.0), (1.0, -1024.0), (1.0, 300.0), (0.5, 0.0), (-1.0, 0.0))[int(rng.integers(5))]
    raw[112:120] = np.array([slope, intercept], "<f4").tobytes()
    (folder / "ct.nii.gz").write_bytes(gzip.compress(bytes(raw)))


def normalised(folder: Path, rng: np.random.Generator) -> None:
    data = scan_hu().astype(np.float32)
    ways = (
        lambda hu: (np.clip(hu, -200, 300) + 200) / 500,
        lambda hu: (np.clip(hu, -200, 300) + 200) / 500 * 255,
        lambda hu: (hu - hu.mean()) / hu.std(),
        lambda hu: (hu - hu.mean()) / hu.std() * 100,
        lambda hu: np.clip(hu, -1024, 3071) + 1024,
    )
    save(folder / "ct.nii.gz", ways[int(rng.integers(len(ways)))](data).astype(np.float32))


def blank_planes(folder: Path, rng: np.random.Generator) -> None:
    data = scan_hu()
    value = int(rng.choice([0, -1000, -1024, 40]))
    at = int(rng.integers(7, 12))
    data[(slice(None),) * int(rng.integers(3)) + (slice(at, at + 2),)] = value
    save(folder / "ct.nii.gz", data)


def plane_twice(folder: Path, rng: np.random.Generator) -> None:
    data = scan_hu()
    at = int(rng.integers(7, 12))
    data[:, :, at + 1] = data[:, :, at]
    save(folder / "ct.nii.gz", data)


def two_volumes(folder: Path, rng: np.random.Generator) -> None:
    save(folder / "ct.nii.gz", np.stack([scan_hu(), scan_hu(1)], axis=-1))


def other_unit(folder: Path, rng: np.random.Generator) -> None:
    """Metres, micrometres or centimetres in the place of millimetres, in the scan and its mask."""
    factor = float(rng.choice([1e-3, 1e3, 0.1]))
    for name in ("ct.nii.gz", "mask.nii.gz"):
        image = _image(folder / name)
        save(folder / name, np.asarray(image.dataobj), np.diag([factor, factor, factor, 1.0]) @ AFFINE)


def more_after_the_end(folder: Path, rng: np.random.Generator) -> None:
    """Right: what follows the last voxel is no part of the scan."""
    raw = gzip.decompress((folder / "ct.nii.gz").read_bytes()) + rng.bytes(999)
    (folder / "ct.nii.gz").write_bytes(gzip.compress(raw))


def packed_twice(folder: Path, rng: np.random.Generator) -> None:
    path = folder / ("ct.nii.gz" if rng.random() < 0.5 else "mask.nii.gz")
    path.write_bytes(gzip.compress(path.read_bytes()))


def voxels_in_other_order(folder: Path, rng: np.random.Generator) -> None:
    """Voxels are written row by row where the format has them column by column."""
    path = folder / ("ct.nii.gz" if rng.random() < 0.5 else "mask.nii.gz")
    data = np.asarray(_image(path).dataobj)
    save(path, np.frombuffer(data.tobytes("C"), data.dtype).reshape(data.shape, order="F"))


def axes_exchanged(folder: Path, rng: np.random.Generator) -> None:
    """Scan or mask lies on its side, its affine as before."""
    path = folder / ("ct.nii.gz" if rng.random() < 0.5 else "mask.nii.gz")
    data = np.asarray(_image(path).dataobj).transpose(1, 0, 2)
    whole = np.full((32, 32, 20), data.min(), data.dtype)
    whole[:28] = data
    save(path, whole[:, :28])


def soft_mask(folder: Path, rng: np.random.Generator) -> None:
    """A mask that was interpolated, or a probability."""
    data = labels().astype(np.float32)
    soft = (data + np.roll(data, 1, 0)) / 2 if rng.random() < 0.5 else data * np.float32(0.97)
    save(folder / "mask.nii.gz", soft)


def mask_of_255(folder: Path, rng: np.random.Generator) -> None:
    save(folder / "mask.nii.gz", (labels() > 0).astype(np.uint8) * 255)


KINDS: tuple[Kind, ...] = (
    kidneys_by_side, codes_exchanged, one_kidney_undrawn, mask_moved, mask_swollen, the_same_file_twice,
    files_exchanged, other_number_type, scaled_storage, header_scale_spoiled, normalised, blank_planes, plane_twice,
    two_volumes, other_unit, more_after_the_end, packed_twice, voxels_in_other_order, axes_exchanged, soft_mask,
    mask_of_255,
)  # fmt: skip
