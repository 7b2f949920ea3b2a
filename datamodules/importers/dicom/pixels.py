"""From the files of a stack to a volume in Hounsfield units.

pydicom decodes the stored values (GDCM is its decoder of compressed ones: RLE, JPEG, JPEG-LS, JPEG 2000); what they
mean is decided here, from each file's own scale, bits and padding.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813
import torchio as tio
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from scipy import ndimage

from datamodules.errors import DataError
from datamodules.importers.dicom.slice_header import SliceHeader
from datamodules.importers.dicom.stack_geometry import TILT_DEGREES, Stack, StackGeometry, geometry
from datamodules.importers.dicom.values import quiet
from datamodules.importers.nifti.scan import MOST_VOXELS, check_hu, check_spacing

AIR_HU = -1000.0
_NO_TISSUE_HU = (-900.0, 3000.0)
"""Padding beyond is padding wherever it stands; between, a voxel of tissue may have the same value."""
_MOST_HU = 16384.0
"""More than a scanner can produce: unsigned values beyond it are signed ones."""
_SKIP, _JUMP_HU = 2, 10.0
"""Every second row and column of a slice is compared; by how many HU two neighbours may jump."""
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_stack(stack: Stack, root: Path, where: str, minimum_slices: int) -> tuple[tio.ScalarImage, list[str]]:
    """Read a stack as one volume.

    A gantry tilt is corrected by resampling onto upright voxels, padded with air.

    Args:
        stack: Slices in order.
        root: Folder that their paths are relative to.
        where: How messages name the series; they show no path.
        minimum_slices: Least number of slices of a volume.

    Returns:
        The scan in HU and notes for the import report.

    Raises:
        DataError: if slices are missing, doubled, uneven or truncated, or the pixels cannot be decoded or are not HU.
    """
    damaged = sum(header.truncated for header in stack.slices)
    if damaged:
        raise DataError(f"{where}: {damaged} of {len(stack.slices)} files are truncated; copy the series again.")
    try:
        found = geometry(stack, minimum_slices)
    except DataError as error:
        raise DataError(f"{where}: {error}.") from None
    notes = [f"{where}: {note}." for note in (*stack.notes, *found.notes)]
    bare = sum(not header.rescaled for header in stack.slices)
    if 0 < bare < len(stack.slices):
        raise DataError(
            f"{where}: {bare} of {len(stack.slices)} slices state no rescale slope or intercept, which the others do; "
            "expected one scale for all. Export the series again."
        )
    if bare:
        notes.append(f"{where}: its files state no rescale slope or intercept; stored values were taken for HU.")
    array, wrapped = read_pixels(stack.slices, root, where)
    _check_scales(stack.slices, array, where)
    if wrapped:
        notes.append(
            f"{where}: {wrapped} of {len(array)} slices say that their values are unsigned and hold signed ones; they "
            "were read as signed."
        )
    if found.tilt_degrees > TILT_DEGREES:
        notes.append(f"{where}: a gantry tilt of {found.tilt_degrees:.1f} degrees was corrected by resampling.")
        image = _untilted(array, found)
    else:
        affine = np.eye(4)
        affine[:3, :3] = found.directions * np.asarray(found.spacing)
        affine[:3, 3] = found.origin
        image = tio.ScalarImage(tensor=array.transpose(2, 1, 0)[None].copy(), affine=_LPS_TO_RAS @ affine)
    check_spacing(image.affine, where)
    return image, [*notes, *check_hu(image, where)]


def _check_scales(slices: tuple[SliceHeader, ...], volume: np.ndarray, where: str) -> None:
    """Refuse slices whose scale is another than their neighbour's, where their pixels fit that of the neighbour.

    Some scanners give each slice a scale of its own; then neighbours differ more under one scale than under their own.

    Raises:
        DataError: with the number of such slices.
    """
    scales = [(header.slope, header.intercept) for header in slices]
    wrong = 0
    for place in [at for at in range(1, len(slices)) if scales[at] != scales[at - 1]]:
        before, here = (volume[at, ::_SKIP, ::_SKIP] for at in (place - 1, place))
        (slope, intercept), (other_slope, other_intercept) = scales[place], scales[place - 1]
        as_before = (here - intercept) / slope * other_slope + other_intercept
        own, other = (float(np.abs(plane - before).mean()) for plane in (here, as_before))
        wrong += own > 2 * other + _JUMP_HU
    if wrong:
        raise DataError(
            f"{where}: {len(set(scales))} rescale slopes and intercepts are stated, and at {wrong} places the pixels "
            "of neighbours fit one scale only; expected each slice in its own. Export the series again."
        )


def read_pixels(slices: tuple[SliceHeader, ...], root: Path, where: str) -> tuple[np.ndarray, int]:
    """Pixels in HU, float32 [slice, row, column], padding as air, and the number of slices that were read as signed
    although they say otherwise.

    Raises:
        DataError: if a file cannot be decoded, or the headers ask for more voxels than a scan has.
    """
    asked = len(slices) * slices[0].rows * slices[0].columns
    if asked > MOST_VOXELS:
        raise DataError(f"{where}: its headers ask for {asked} voxels; expected at most {MOST_VOXELS}.")
    volume = np.empty((len(slices), slices[0].rows, slices[0].columns), dtype=np.float32)
    path, frames, wrapped = "", np.empty(0), 0
    for place, header in enumerate(slices):
        if header.path != path:
            path, frames = header.path, _stored(root / header.path, where)
        plane = frames[header.frame or 0]
        if plane.shape != volume.shape[1:]:
            raise DataError(f"{where}: pixels of shape {plane.shape} were decoded; expected {volume.shape[1:]}.")
        volume[place], signed = _hu(plane, header)
        wrapped += signed
    return volume, wrapped


def _stored(path: Path, where: str) -> np.ndarray:
    """The stored values of a file as whole numbers without a sign, [frame, row, column]."""
    try:
        with quiet():
            dataset = pydicom.dcmread(path, force=True)
            complete(dataset)
            array = dataset.pixel_array
    except MemoryError:
        raise
    except Exception as error:  # damaged pixels make decoders raise almost anything
        raise DataError(
            f"{where}: the pixels of a file cannot be decoded ({type(error).__name__}); the file is damaged, truncated "
            "or compressed in a way that is not DICOM's. Copy it again, or decompress it with gdcmconv --raw."
        ) from None
    array = array if array.ndim == 3 else array[None]
    if array.ndim != 3 or array.dtype.kind not in "iu":
        raise DataError(f"{where}: pixels of {array.ndim} axes and type {array.dtype} were decoded; expected a CT.")
    return array.view(array.dtype.str.replace("i", "u"))


def complete(dataset: pydicom.Dataset) -> None:
    """Add what decoders ask for and an image can have in one way only, where a file leaves it out."""
    defaults = {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "PixelRepresentation": 0}
    for name, value in defaults.items():
        if dataset.get(name) is None:
            setattr(dataset, name, value)
    if dataset.get("BitsStored") is None:
        dataset.BitsStored = dataset.BitsAllocated
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _hu(stored: np.ndarray, header: SliceHeader) -> tuple[np.ndarray, bool]:
    """HU of one slice, and whether its values are signed although it says otherwise."""
    width = stored.dtype.itemsize * 8
    values = _whole_numbers(stored, min(header.bits[1], width), signed=header.signed)
    hu = values * header.slope + header.intercept
    padding = _is_padding(stored, values, hu, header)
    wrapped = not header.signed and header.bits[1] == width and bool(((hu > _MOST_HU) & ~padding).any())
    if wrapped:
        hu = _whole_numbers(stored, width, signed=True) * header.slope + header.intercept
    if header.padding:
        hu[padding] = AIR_HU
    return hu, wrapped


def _whole_numbers(stored: np.ndarray, bits: int, *, signed: bool) -> np.ndarray:
    """The numbers that the lowest bits say; overlays and noise above them are no part of it."""
    unused = stored.dtype.itemsize * 8 - bits
    if not unused:
        whole = stored.view(stored.dtype.str.replace("u", "i")) if signed else stored
        return whole.astype(np.float32)
    shifted = np.left_shift(stored, unused)
    typed = shifted.view(shifted.dtype.str.replace("u", "i")) if signed else shifted
    return np.right_shift(typed, unused).astype(np.float32)


def _is_padding(stored: np.ndarray, values: np.ndarray, hu: np.ndarray, header: SliceHeader) -> np.ndarray:
    """Voxels that PixelPaddingValue, alone or with its range, names: compared as bits, whatever sign its VR gives.

    A padding value that tissue can have counts only where it reaches in from the edge of the picture.
    """
    if not header.padding:
        return np.zeros(stored.shape, dtype=bool)
    width = stored.dtype.itemsize * 8
    bits = [value % (1 << width) for value in header.padding]
    if len(bits) == 1:
        kept = (1 << min(header.bits[1], width)) - 1  # a decoder may have cleared the others
        found = (stored & kept) == (bits[0] & kept)
    else:
        ends = [value - (1 << width) if header.signed and value >> (width - 1) else value for value in bits]
        found = (values >= min(ends)) & (values <= max(ends))
    if not found.any():
        return found
    low, high = _NO_TISSUE_HU
    clear = found & ((hu <= low) | (hu >= high))
    if (found & ~clear).any():
        pieces, _ = ndimage.label(found & ~clear)
        edge = np.unique(np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]]))
        clear |= np.isin(pieces, edge[edge > 0])
    return clear


def same_pixels(first: SliceHeader, second: SliceHeader, root: Path) -> bool:
    """Whether two slices hold the same pixels; a file that cannot be read is like no other."""
    try:
        return bool(np.array_equal(read_pixels((first,), root, "")[0], read_pixels((second,), root, "")[0]))
    except DataError:
        return False


def _untilted(array: np.ndarray, found: StackGeometry) -> tio.ScalarImage:
    """Resample a sheared stack onto upright voxels that cover all of it."""
    count, rows, columns = array.shape
    x_step, y_step, z_step = found.spacing
    length = float(np.sqrt(found.drift[0] ** 2 + found.drift[1] ** 2 + z_step**2))
    slope = found.directions @ np.array([*found.drift, z_step]) / length
    sheared = sitk.GetImageFromArray(array)
    sheared.SetSpacing((x_step, y_step, length))
    sheared.SetOrigin(found.origin.tolist())
    sheared.SetDirection(np.column_stack([found.directions[:, :2], slope]).ravel().tolist())
    total = np.array(found.drift) * (count - 1)
    start = found.directions[:, :2] @ np.minimum(total, 0.0)
    extra = np.ceil(np.abs(total) / (x_step, y_step)).astype(int)
    upright = sitk.Resample(
        sheared,
        (columns + int(extra[0]), rows + int(extra[1]), count),
        sitk.Transform(),
        sitk.sitkLinear,
        (found.origin + start).tolist(),
        found.spacing,
        found.directions.ravel().tolist(),
        AIR_HU,
    )
    affine = np.eye(4)
    affine[:3, :3] = found.directions * np.asarray(found.spacing)
    affine[:3, 3] = found.origin + start
    data = sitk.GetArrayFromImage(upright).transpose(2, 1, 0)[None].copy()
    return tio.ScalarImage(tensor=data, affine=_LPS_TO_RAS @ affine)
