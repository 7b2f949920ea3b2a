"""Reading a NIfTI scan or label map, with the checks that keep a bad file out of a cohort."""

from __future__ import annotations

import math
from pathlib import Path

import nibabel
import numpy as np
import torchio as tio
from nibabel.nifti1 import Nifti1Image

from datamodules.errors import DataError
from datamodules.importers.nifti.stated_affine import stated_affine

SPACING_MM = (0.05, 20.0)
"""Voxel spacing that a CT can have."""
AIR_OR_FAT_HU = -50
"""A scan of a body in HU holds fat near -100 and air near -1000; what never falls below this is not in HU."""
WATER_HU = 0
"""A body holds water, blood and bone; a scan that never reaches this shows none, or its scale was applied twice."""
AIR_HU = (-1250.0, -600.0)
"""Where the air of a scan lies, lungs and scanners with a bad scale among them."""
_DARK_HU = -300.0
_PADDING_BELOW_HU = -1100.0
_MANY, _AT_TOP = 0.01, 1e-3
_LEAST_AIR = 0.05
_DEEPEST_CLIP_HU, _HIGHEST_CLIP_HU = -950.0, 1000.0
_BESIDE_HU, _PILE, _LEAST_PILE = 20.0, 4, 20
_SKIP = 4
"""Of a plane every fourth row and column tells whether a closer look is needed."""
_METAL_HU, _MOST_METAL = 3071.0, 0.25
HU_LIMITS = (-32768, 32767)
MOST_VOXELS = 2**30
"""Voxels that a scan can have: 512 x 512 in each of 4096 slices. What a header asks for beyond is not allocated."""
_NEAR_WHOLE = 0.01
"""How far scaling may move a label code; what lies further from a whole number was interpolated."""
LEAST_VOLUME = 0.3
"""Volume of a voxel over that of a box of its edges; 0.87 at the largest tilt of a gantry (30 degrees), 0 where the
axes lie in one plane."""


def read_nifti(path: Path, where: str) -> tuple[tio.ScalarImage, list[str]]:
    """Read a CT in Hounsfield units.

    Args:
        path: NIfTI file with one 3D volume.
        where: How messages name the scan, for example `manifest.csv, row 3`; they never show the path.

    Returns:
        The scan in its own orientation, and notes for the import report.

    Raises:
        DataError: if the file is missing, truncated or not NIfTI, has no geometry or an impossible spacing, or holds
            NaN, one constant value, or values that are not HU (as MR).
    """
    data, affine, notes = _read(path, where)
    if data.dtype.kind == "f":
        data = data.astype(np.float32)
    else:
        data = data.astype(np.int16 if data.min() >= HU_LIMITS[0] and data.max() <= HU_LIMITS[1] else np.int32)
    image = tio.ScalarImage(tensor=data[None], affine=affine)
    return image, [*notes, *check_hu(image, where)]


def read_nifti_labels(path: Path, where: str) -> tuple[tio.LabelMap, list[str]]:
    """Read a label map as it is stored, without giving its codes a meaning.

    Args:
        path: NIfTI file with one 3D volume of numbers in [0, 255], whole but for the rounding of a scale.
        where: How messages name the mask.

    Returns:
        The label map, and notes for the import report.

    Raises:
        DataError: as `read_nifti`, or if a value is no whole number in [0, 255].
    """
    data, affine, notes = _read(path, where)
    low, high = float(data.min()), float(data.max())
    whole = np.round(data) if data.dtype.kind == "f" else data
    # Programs that store codes as scaled integers write 1.00002 for 1.
    off = np.abs(data - whole) > _NEAR_WHOLE if data.dtype.kind == "f" else np.zeros(1, dtype=bool)
    if off.any():
        share, example = off.mean(), float(data[off][0])
        raise DataError(
            f"{where}: {share:.1%} of the values are no whole numbers, such as {example:g}; expected label codes, 0 to "
            "255. The mask was interpolated, or is a probability: write it again with the nearest label."
        )
    if whole.min() < 0 or whole.max() > 255:
        raise DataError(f"{where}: values from {low:g} to {high:g} were found; expected whole label codes, 0 to 255.")
    return tio.LabelMap(tensor=whole.astype(np.uint8)[None], affine=affine), notes


def _read(path: Path, where: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Voxels [X, Y, Z], the affine to RAS millimetres, and notes on it."""
    if not path.is_file():
        raise DataError(f"{where}: the file was not found; paths are relative to the table that names them.")
    try:
        stored = nibabel.load(path)
        if not isinstance(stored, Nifti1Image):
            if path.suffix in (".hdr", ".img"):
                raise DataError(
                    f"{where}: the file is one of a pair (.hdr and .img), of which either may be lost or exchanged; "
                    "expected one file of header and voxels. Write it as .nii.gz."
                )
            raise DataError(f"{where}: the file is no NIfTI volume; convert it to NIfTI.")
        affine, notes = _check_header(stored, path, where)
        data = np.asanyarray(stored.dataobj)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a hostile header makes the library raise almost anything
        # Its messages show the path, which may hold a name.
        raise DataError(
            f"{where}: the file is damaged or not NIfTI ({type(error).__name__}); copy it again from its source."
        ) from None
    data = data.reshape(data.shape[:3])
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        raise DataError(
            f"{where}: {int((~np.isfinite(data)).sum())} voxels are NaN or infinite; expected numbers. "
            "Convert the scan again from DICOM."
        )
    return data, affine, notes


def _check_header(stored: Nifti1Image, path: Path, where: str) -> tuple[np.ndarray, list[str]]:
    """Refuse by its header what cannot be a scan, before anything is allocated for it; its affine, and notes."""
    shape = stored.shape
    if len(shape) < 3 or min(shape[:3]) < 2 or math.prod(shape[3:]) != 1:
        raise DataError(f"{where}: a volume of shape {shape} was found; expected one 3D volume.")
    if math.prod(shape) > MOST_VOXELS:
        raise DataError(
            f"{where}: its header asks for {' x '.join(map(str, shape))} voxels; expected at most {MOST_VOXELS} in "
            "all. The header is damaged, or the file is no scan of one patient."
        )
    kind = stored.get_data_dtype()
    if kind.kind not in "iuf":
        raise DataError(f"{where}: voxels of type {kind} were found; expected one number each.")
    affine, notes = stated_affine(stored, path, where)
    check_spacing(affine, where)
    return affine, notes


def check_spacing(affine: np.ndarray, where: str) -> None:
    """Refuse a missing or impossible voxel spacing, and axes that span no space.

    Args:
        affine: [4, 4] from voxels to millimetres.
        where: How the message names the scan.

    Raises:
        DataError: if a spacing lies outside [0.05, 20] mm, the affine is singular or nearly so, or holds NaN.
    """
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    _check_lengths(spacing, where)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < LEAST_VOLUME * spacing.prod():
        raise DataError(
            f"{where}: the axes of the scan do not span a space (its affine is singular, or holds NaN); expected three "
            "directions. Convert it again from DICOM."
        )


def _check_lengths(spacing: np.ndarray, where: str) -> None:
    low, high = SPACING_MM
    if not np.isfinite(spacing).all() or spacing.min() < low or spacing.max() > high:
        found = " x ".join(f"{value:.3g}" for value in spacing)
        raise DataError(f"{where}: voxels of {found} mm were found; expected {low:g} to {high:g} mm in each direction.")


def check_hu(image: tio.ScalarImage, where: str) -> list[str]:
    """Refuse what cannot be a CT of a body in Hounsfield units.

    Args:
        image: The scan.
        where: How the message names it.

    Returns:
        Notes for the import report where the scan was clipped to a window, or planes repeat or are blank.

    Raises:
        DataError: if the scan is constant, its range is that of an MR, a normalised or a damaged image, or its air is
            no air.
    """
    low, high = float(image.data.min()), float(image.data.max())
    if low == high:
        raise DataError(f"{where}: every voxel is {low:g}; expected a scan.")
    if low > AIR_OR_FAT_HU or high - low < 100 or low < HU_LIMITS[0] or high > 2 * HU_LIMITS[1]:
        raise DataError(
            f"{where}: values from {low:g} to {high:g} were found, which are not Hounsfield units (an MR, a windowed "
            "or a normalised image, or a CT whose rescale slope and intercept were left out); expected about -1000 in "
            "air and -100 in fat."
        )
    if high < WATER_HU:
        raise DataError(
            f"{where}: values from {low:g} to {high:g} HU were found, nothing as dense as water; expected a body. The "
            "rescale intercept was subtracted twice, or the scan holds air only: convert it again from DICOM."
        )
    sample = image.data[0, ::2, ::2, ::2].numpy().ravel()
    planes = _spoiled_planes(image.data[0].numpy(), where)
    notes = _clipped(sample, low, high, where)
    air = None if notes else _air_level(sample)
    if air is not None and not AIR_HU[0] <= air <= AIR_HU[1]:
        deep = air < AIR_HU[0]
        cause = (
            "The rescale intercept was subtracted twice, or the slope applied twice" if deep else "A slope was left out"
        )
        raise DataError(
            f"{where}: its air is at {air:.0f} HU; expected about -1000. {cause}, or the scan is not in Hounsfield "
            "units: convert it again from DICOM."
        )
    if not notes and low > _DARK_HU:
        notes = [f"{where}: its lowest value is {low:.0f} HU, so that it shows no air; check that it is in HU."]
    return [*notes, *planes]


def _spoiled_planes(data: np.ndarray, where: str) -> list[str]:
    """Notes on planes of a body that repeat the plane before, voxel by voxel, or hold one value: what stood there is
    lost. Noise makes any two planes of a scanner differ.

    Args:
        data: HU [X, Y, Z].
        where: How the notes name the scan.

    Raises:
        DataError: if a plane is denser than any body, as one whose bytes were exchanged.
    """
    notes = []
    for axis in range(3):
        planes = np.moveaxis(data, axis, 0)
        few = planes[:, ::_SKIP, ::_SKIP].reshape(len(planes), -1)
        dense = np.flatnonzero((few > _METAL_HU).mean(axis=1) > _MOST_METAL)
        if len(dense):
            raise DataError(
                f"{where}: {len(dense)} planes, the first at {dense[0]}, hold more than {_MOST_METAL:.0%} of values "
                f"above {_METAL_HU:g} HU; expected metal in a small part. The bytes of the pixels were exchanged "
                "or moved: export the scan again."
            )
        flat = few.min(axis=1) == few.max(axis=1)
        again = [
            at
            for at in np.flatnonzero((few[1:] == few[:-1]).all(axis=1) & ~flat[1:]) + 1
            if np.array_equal(planes[at], planes[at - 1])
        ]
        if again:
            notes.append(
                f"{where}: {len(again)} planes repeat the one before them, voxel by voxel, the first at {again[0]}."
            )
        inside = np.flatnonzero(~flat)
        blank = [
            int(at)
            for at in np.flatnonzero(flat)
            if len(inside) and inside[0] < at < inside[-1] and planes[at].min() == planes[at].max()
        ]
        if blank:
            notes.append(f"{where}: {len(blank)} planes inside the scan hold one value, the first at {blank[0]}.")
    return notes


def _air_level(sample: np.ndarray) -> float | None:
    """Where most of the dark voxels of a scan lie, in HU; None where it shows too little air to tell.

    A value below -1100 that many voxels have is what a program puts outside the scanner's circle, and no air.
    """
    dark = sample[sample < _DARK_HU]
    if dark.size and (lowest := dark.min()) < _PADDING_BELOW_HU:
        outside = dark == lowest
        dark = dark[~outside] if outside.mean() > _MANY else dark
    if dark.size < _LEAST_AIR * sample.size:
        return None
    counts, edges = np.histogram(dark, bins=np.arange(np.floor(dark.min() / 50) * 50, _DARK_HU + 51, 50))
    return float(edges[int(counts.argmax())] + 25.0)


def _clipped(sample: np.ndarray, low: float, high: float, where: str) -> list[str]:
    """A note where many voxels have the very ends of a range that a scanner has not."""
    ends = []
    if low > _DEEPEST_CLIP_HU and _piled(sample - low, _MANY):
        ends.append(f"below {low:g}")
    if high < _HIGHEST_CLIP_HU and _piled(high - sample, _AT_TOP):
        ends.append(f"above {high:g}")
    if not ends:
        return []
    return [f"{where}: values {' and '.join(ends)} HU were clipped before; what lay beyond is lost."]


def _piled(inwards: np.ndarray, least: float) -> bool:
    """Whether more than a share of the voxels, and far more than of any value near it, have the value at an end.

    Args:
        inwards: Distance of every voxel from the end, HU.
        least: The share. Noise alone leaves about as many voxels at its end as beside it.
    """
    at_end = np.count_nonzero(inwards < 0.5)
    beside, _ = np.histogram(inwards, bins=np.arange(0.5, _BESIDE_HU + 1.0))
    return bool(at_end > max(least * inwards.size, _PILE * beside.max(), _LEAST_PILE))
