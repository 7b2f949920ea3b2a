"""Kidney and tumour masks: what every voxel of a drawn or computed label map means, and whether it fits its scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torchio as tio

from datamodules.anatomy.tissues import Tissue
from datamodules.errors import DataError
from datamodules.importers.nifti.scan import read_nifti_labels
from datamodules.importers.part_names import meaning

SIDE_CODES = {"left": 1, "right": 2}

LABELS_KITS: dict[int, str] = {1: "kidney", 2: "tumor", 3: "cyst"}
"""Codes of KiTS23, and of an nnU-Net trained on it."""
LABELS_TOTALSEGMENTATOR: dict[int, str] = {
    2: "kidney_right",
    3: "kidney_left",
    23: "kidney_cyst_left",
    24: "kidney_cyst_right",
}
"""Codes of a TotalSegmentator 2 file with all classes of task `total` (option `--ml`); other organs are left out."""
LABELS = {"kits": LABELS_KITS, "totalsegmentator": LABELS_TOTALSEGMENTATOR}

# Painted in this order: a tumour is part of what a kidney model calls kidney.
PAINT = (Tissue.KIDNEY, Tissue.CYST, Tissue.TUMOR)


@dataclass(frozen=True)
class KidneyMask:
    """A label map of both kidneys, in the geometry of the file that it was read from.

    Args:
        labels: uint8 codes of `Tissue`: KIDNEY, TUMOR and CYST on UNLABELED.
        sides: uint8 [1, X, Y, Z] on the same grid, 1 where the source names the left kidney and 2 where it names the
            right one; None where it names neither.
        notes: What was done to it, for the import report.
    """

    labels: tio.LabelMap
    sides: np.ndarray | None = None
    notes: tuple[str, ...] = ()


def read_mask(path: Path, where: str, labels: str | Mapping[int, str] = "kits") -> KidneyMask:
    """Read a NIfTI label map.

    Args:
        path: The file.
        where: How messages name it.
        labels: `kits`, `totalsegmentator`, or the name of each code: any name that says kidney, tumor or cyst, with
            left or right where the code is for one side, or `ignore`.

    Raises:
        DataError: if the file is damaged or holds a code that `labels` does not name.
    """
    codes = mapping(labels)
    stored, notes = read_nifti_labels(path, where)
    found = codes_in(stored.data.numpy())
    unknown = [code for code in found if code not in codes]
    if unknown and labels != "totalsegmentator":
        raise DataError(
            f"{where}: codes {unknown} were found in the label map; expected {codes}. Name them with the option "
            "`labels`, or `ignore` them."
        )
    parts = [(codes[code], stored.data.numpy() == code) for code in found if code in codes]
    return replace(compose(parts, stored.affine, stored.spatial_shape, where), notes=tuple(notes))


def codes_in(array: np.ndarray, chunk: int = 1 << 18) -> list[int]:
    """The codes of a uint8 label map, 0 left out, in ascending order.

    Counting is many times faster than sorting the voxels of a whole scan. It goes over the voxels as they lie in
    memory, in chunks that stay in the cache: `numpy.bincount` widens what it counts to eight bytes a voxel.

    Args:
        array: uint8 codes of any shape.
        chunk: Voxels that are counted at once.
    """
    flat = array.ravel(order="K")
    counts = np.zeros(256, dtype=np.int64)
    for start in range(0, flat.size, chunk):
        part = flat[start : start + chunk]
        if part.any():  # most of a scan is no kidney
            counts += np.bincount(part, minlength=256)
    return [int(code) for code in np.flatnonzero(counts) if code]


def mapping(labels: str | Mapping[int, str]) -> Mapping[int, str]:
    """The names of codes that an option asks for.

    Raises:
        DataError: if the option is unknown or a name says nothing.
    """
    if isinstance(labels, str):
        if labels not in LABELS:
            raise DataError(f"Labels {labels!r} were asked for; expected one of {', '.join(LABELS)}, or code: name.")
        return LABELS[labels]
    for code, name in labels.items():
        if name != "ignore" and meaning(name)[0] is None:
            raise DataError(f"Label {code} is named {name!r}; expected kidney, tumor or cyst in the name, or ignore.")
    return labels


def read_binary_masks(parts: Sequence[tuple[str, Path]], where: str) -> KidneyMask:
    """Read masks that stand in one file each.

    Args:
        parts: Names (`kidney_left`, `tumor`, ...) and NIfTI files; every voxel that is not 0 belongs to the part.
        where: How messages name them.

    Raises:
        DataError: if a file is damaged or holds several codes, or the files are not on one grid.
    """
    arrays: list[tuple[str, np.ndarray]] = []
    notes: list[str] = []
    first: tio.LabelMap | None = None
    for name, path in parts:
        stored, more = read_nifti_labels(path, f"{where}, {name}")
        notes += more
        if first is None:
            first = stored
        elif stored.spatial_shape != first.spatial_shape or not np.allclose(stored.affine, first.affine, atol=1e-3):
            raise DataError(
                f"{where}: {name} has the grid {stored.spatial_shape}, {parts[0][0]} has {first.spatial_shape}; "
                "expected the masks of one scan on one grid."
            )
        codes = codes_in(stored.data.numpy())
        if len(codes) > 1:
            raise DataError(
                f"{where}: {name} holds the codes {codes}; expected one beside 0 in a mask of one part. A label map "
                "belongs under `mask`, with the option `labels` where its codes are others than those of KiTS23."
            )
        arrays.append((name, stored.data.numpy() > 0))
    if first is None:
        raise DataError(f"{where}: no mask was found; expected kidney_left.nii.gz and kidney_right.nii.gz.")
    return replace(compose(arrays, first.affine, first.spatial_shape, where), notes=tuple(notes))


def compose(
    parts: Sequence[tuple[str, np.ndarray]], affine: np.ndarray, shape: Sequence[int], where: str
) -> KidneyMask:
    """Paint named binary masks into one label map, the kidney first and the tumour last.

    Args:
        parts: Names and bool arrays [1, X, Y, Z].
        affine: [4, 4] of the grid.
        shape: X, Y, Z.
        where: How messages name the mask.

    Raises:
        DataError: if no part holds a voxel of kidney or lesion.
    """
    named = [(*meaning(name), mask) for name, mask in parts]
    data = _blank(named[0][2] if named else None, shape)
    sides = _blank(data, shape) if any(side for _, side, _ in named) else None
    for tissue in PAINT:
        for own, side, mask in named:
            if own == tissue:
                np.copyto(data, np.uint8(tissue), where=mask)
                if side is not None and sides is not None:
                    np.copyto(sides, np.uint8(SIDE_CODES[side]), where=mask)
    if not data.any():
        raise DataError(f"{where}: the mask holds no kidney; expected one or two. Check the names of its labels.")
    return KidneyMask(tio.LabelMap(tensor=data, affine=affine), sides if sides is not None and sides.any() else None)


def _blank(like: np.ndarray | None, shape: Sequence[int]) -> np.ndarray:
    """Zeros that lie in memory as `like` does: NIfTI runs along X first, and painting across it is far slower."""
    return np.zeros((1, *shape), dtype=np.uint8) if like is None else np.zeros_like(like, dtype=np.uint8)


def find_segmentation(folder: Path, names: Sequence[str]) -> Path | None:
    """Output of a segmentation program for one series.

    Args:
        folder: Folder with `<name>.nii.gz` (nnU-Net: one label map per case) or `<name>/` (TotalSegmentator: one
            folder per case).
        names: Names that the case may go by, the most exact first.
    """
    for name in names:
        for candidate in (folder / name, folder / f"{name}.nii.gz", folder / f"{name}.nii"):
            if candidate.exists():
                return candidate
    return None


def files_of(segmentation: Path) -> list[Path]:
    """The files of what `find_segmentation` found."""
    return sorted(segmentation.glob("*.nii*")) if segmentation.is_dir() else [segmentation]


def check_folder(folder: Path | None) -> None:
    """Refuse a folder of segmentations that is not there, before any scan is read.

    Raises:
        DataError: if it is named and is no folder.
    """
    if folder is not None and not Path(folder).is_dir():
        raise DataError(f"The folder of masks {Path(folder).name} was not found; check the name of the option `masks`.")


def read_segmentation(path: Path, where: str, labels: str | Mapping[int, str] = "kits") -> KidneyMask:
    """Read what `find_segmentation` found.

    Args:
        path: A label map, or a folder of binary masks: `kidney_left.nii.gz`, `kidney_right.nii.gz` and where present
            `kidney_cyst_left.nii.gz`, `kidney_cyst_right.nii.gz` and `tumor.nii.gz`. Masks of other organs are left
            out.
        where: How messages name it.
        labels: Meaning of the codes of a label map.

    Raises:
        DataError: if a file is damaged or none shows a kidney.
    """
    if path.is_file():
        return read_mask(path, where, labels)
    files = {file.name.removesuffix(".gz").removesuffix(".nii"): file for file in sorted(path.glob("*.nii*"))}
    # A program that draws every organ may have drawn a tumour of the liver, too.
    ours = {name: file for name, file in files.items() if meaning(name)[0] is not None}
    return read_binary_masks(list(ours.items()), where)
