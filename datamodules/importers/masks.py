"""Kidney and tumour masks: what every voxel of a drawn or computed label map means, and whether it fits its scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np
import torchio as tio

from datamodules.anatomy.nephrometry.mask_geometry import bounding_slices
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
_PAINT = (Tissue.KIDNEY, Tissue.CYST, Tissue.TUMOR)
_ONE_VOXEL = 1.0
_SAME_READING = 0.5
"""Share of a tissue from which two masks draw the same and not two parts of it."""
_MOST_OUTSIDE = 0.3
"""Share of a mask that a scan may cut off; a mask of which more lies outside was drawn on another one."""


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
    for tissue in _PAINT:
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


def merge(masks: Sequence[KidneyMask], where: str) -> KidneyMask:
    """Join masks of one scan, such as those of two objects of which one shows the kidneys and the other the mass.

    What two of them show of the same tissue, on the same voxels, is a second reading: that of the first is kept.

    Args:
        masks: In the order in which they are believed; on any grids in one coordinate system.
        where: How notes name them.

    Returns:
        One mask on the finest of the grids, enlarged to hold them all.
    """
    if len(masks) == 1:
        return masks[0]
    finest = min(masks, key=lambda mask: abs(np.linalg.det(mask.labels.affine[:3, :3])))
    affine, shape = _common_grid(masks, finest.labels.affine)
    data, sides = np.zeros((2, *shape), dtype=np.uint8)
    notes = [note for mask in masks for note in mask.notes]
    for number, mask in enumerate(masks):
        labels, own_sides = _on_grid(mask, affine, shape)
        again = [
            tissue
            for tissue in _PAINT
            if number and ((labels == tissue) & (data == tissue)).sum() > _SAME_READING * (labels == tissue).sum() > 0
        ]
        if again:
            labels[np.isin(labels, again)] = 0
            notes.append(f"{where}: a further segmentation draws the same again; the first one was kept.")
        # As in one object a tumour lies on the kidney, and a cyst is part of neither.
        stronger = labels > 0
        for tissue in _PAINT:
            stronger &= ~((data == tissue) & (_rank(labels) < _PAINT.index(tissue)))
        data[stronger] = labels[stronger]
        sides = np.where(stronger & (own_sides > 0), own_sides, sides)
    joined = tio.LabelMap(tensor=data[None], affine=affine)
    return KidneyMask(joined, sides[None] if sides.any() else None, tuple(notes))


def _rank(labels: np.ndarray) -> np.ndarray:
    """Place of each label in the order of painting."""
    order = np.zeros(256, dtype=np.int8)
    for place, tissue in enumerate(_PAINT):
        order[tissue] = place
    return order[labels]


def _common_grid(masks: Sequence[KidneyMask], affine: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """A grid of one affine's voxels around the labels of all masks."""
    inverse = np.linalg.inv(affine)
    corners = []
    for mask in masks:
        box = bounding_slices(mask.labels.data[0].numpy() > 0)
        ends = np.array(np.meshgrid(*[(part.start, part.stop - 1) for part in box], indexing="ij")).reshape(3, -1)
        corners.append((inverse @ mask.labels.affine @ np.vstack([ends, np.ones(8)]))[:3])
    low = np.floor(np.hstack(corners).min(axis=1)).astype(int) - 1
    high = np.ceil(np.hstack(corners).max(axis=1)).astype(int) + 1
    moved = affine.copy()
    moved[:3, 3] = (affine @ np.append(low, 1.0))[:3]
    return moved, tuple(int(size) for size in high - low + 1)


def _on_grid(mask: KidneyMask, affine: np.ndarray, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and sides of a mask on another grid, by the nearest voxel."""
    turn = np.linalg.inv(mask.labels.affine) @ affine
    indices = np.indices(tuple(shape)).reshape(3, -1)
    source = np.round(turn[:3, :3] @ indices + turn[:3, 3:]).astype(int)
    own = np.array(mask.labels.spatial_shape)[:, None]
    inside = ((source >= 0) & (source < own)).all(axis=0)
    found = np.zeros((2, indices.shape[1]), dtype=np.uint8)
    place = tuple(source[:, inside])
    found[0, inside] = mask.labels.data[0].numpy()[place]
    if mask.sides is not None:
        found[1, inside] = mask.sides[0][place]
    labels, sides = found.reshape(2, *shape)
    return labels, sides


def fit(mask: KidneyMask, image: tio.ScalarImage, where: str, *, exact_geometry: bool = False) -> KidneyMask:
    """Check that a mask belongs to its scan.

    Masks are cut in the scanner's millimetres, so another grid is no obstacle as long as its affine explains it.

    Args:
        mask: The mask.
        image: The scan it was drawn on.
        where: How messages name them.
        exact_geometry: Whether the format itself places every slice, as DICOM SEG does.

    Returns:
        The mask, with a note if its grid is another one.

    Raises:
        DataError: if it has another shape that its affine does not explain, or most labels lie outside the scan.
    """
    labels = mask.labels
    (shape, affine), (own_shape, own_affine) = _canonical_grid(image), _canonical_grid(labels)
    same_affine = np.allclose(affine, own_affine, atol=1e-2)
    if shape == own_shape and same_affine:
        return mask
    found = f"a mask of {labels.spatial_shape} voxels was found on a scan of {image.spatial_shape}"
    if same_affine and not exact_geometry:
        raise DataError(f"{where}: {found} with the same affine; expected the mask of this scan.")
    outside = _share_outside(labels, image)
    if outside > _MOST_OUTSIDE:
        raise DataError(
            f"{where}: {found}, and its labels lie outside the scan ({outside:.0%} of them); expected a mask in the "
            "scan's coordinates."
        )
    if outside:
        cut = f"{where}: {outside:.0%} of the mask lies outside the scan, which ends before the kidneys do."
        mask = KidneyMask(labels, mask.sides, (*mask.notes, cut))
    note = f"{where}: the mask has another grid and was resampled (nearest label)."
    return KidneyMask(labels, mask.sides, mask.notes if exact_geometry else (*mask.notes, note))


def _share_outside(labels: tio.LabelMap, image: tio.ScalarImage) -> float:
    """Share of the labelled voxels that lie more than a voxel outside a scan."""
    last = np.array(image.spatial_shape) - 1
    placed = voxels_of(labels, image)
    if (placed >= -_ONE_VOXEL).all() and (placed <= last + _ONE_VOXEL).all():
        return 0.0
    voxels = np.argwhere(labels.data[0].numpy() > 0)
    turn = np.linalg.inv(image.affine) @ labels.affine
    placed = voxels @ turn[:3, :3].T + turn[:3, 3]
    return float(((placed < -_ONE_VOXEL) | (placed > last + _ONE_VOXEL)).any(axis=1).mean())


def _canonical_grid(image: tio.Image) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and affine that an image would have along R, A, S; stored the other way round, a grid is still the same."""
    turn = nibabel.io_orientation(image.affine)
    shape = tuple(int(image.spatial_shape[axis]) for axis in np.argsort(turn[:, 0]))
    return shape, image.affine @ nibabel.orientations.inv_ornt_aff(turn, image.spatial_shape)


def voxels_of(labels: tio.LabelMap, image: tio.ScalarImage) -> np.ndarray:
    """Corners of the box around all labels, [8, 3], as voxel indices of a scan."""
    box = bounding_slices(labels.data[0].numpy() > 0)
    corners = np.array(np.meshgrid(*[(part.start, part.stop - 1) for part in box], indexing="ij"))
    placed = np.linalg.inv(image.affine) @ labels.affine @ np.vstack([corners.reshape(3, -1), np.ones(8)])
    return placed[:3].T
