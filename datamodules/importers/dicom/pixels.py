"""From the files of a stack to a volume in Hounsfield units, with SimpleITK (GDCM) as the decoder.

GDCM decodes every transfer syntax in common use (RLE, JPEG, JPEG-LS, JPEG 2000) and applies each file's rescale slope
and intercept. Geometry is not its part: it takes the direction of a tilted stack for an upright one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813
import torchio as tio

from datamodules.errors import DataError
from datamodules.importers.dicom.headers import SliceHeader
from datamodules.importers.dicom.series import TILT_DEGREES, Stack, StackGeometry, geometry
from datamodules.importers.dicom.values import quiet
from datamodules.importers.nifti.scan import MOST_VOXELS, check_hu, check_spacing

AIR_HU = -1000.0
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
    notes = [f"{where}: {note}." for note in stack.notes]
    array = read_pixels(stack.slices, root, where)
    if found.tilt_degrees > TILT_DEGREES:
        notes.append(f"{where}: a gantry tilt of {found.tilt_degrees:.1f} degrees was corrected by resampling.")
        image = _untilted(array, found)
    else:
        affine = np.eye(4)
        affine[:3, :3] = found.directions * np.asarray(found.spacing)
        affine[:3, 3] = found.origin
        image = tio.ScalarImage(tensor=array.transpose(2, 1, 0)[None].copy(), affine=_LPS_TO_RAS @ affine)
    check_spacing(image.affine, where)
    check_hu(image, where)
    return image, notes


def read_pixels(slices: tuple[SliceHeader, ...], root: Path, where: str) -> np.ndarray:
    """Pixels in HU, float32 [slice, row, column].

    Raises:
        DataError: if a file cannot be decoded, or the headers ask for more voxels than a scan has.
    """
    asked = len(slices) * slices[0].rows * slices[0].columns
    if asked > MOST_VOXELS:
        raise DataError(f"{where}: its headers ask for {asked} voxels; expected at most {MOST_VOXELS}.")
    if slices[0].frame is not None:
        return _read_frames(slices, root, where)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(root / header.path) for header in slices])
    reader.SetOutputPixelType(sitk.sitkFloat32)
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    # Warnings and errors of the reader show paths.
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        array = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError:
        raise DataError(f"{where}: the pixels of a file cannot be decoded; the file is damaged or truncated.") from None
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
    expected = (len(slices), slices[0].rows, slices[0].columns)
    if array.shape != expected:
        raise DataError(f"{where}: pixels of shape {array.shape} were decoded; expected {expected}.")
    return array


def _read_frames(slices: tuple[SliceHeader, ...], root: Path, where: str) -> np.ndarray:
    """Frames of enhanced multi-frame files, each with its own rescale slope and intercept."""
    files: dict[str, np.ndarray] = {}
    planes = []
    for header in slices:
        if header.path not in files:
            files[header.path] = _frames_of(root / header.path, where)
        frame = files[header.path][header.frame]
        planes.append(frame.astype(np.float32) * header.slope + header.intercept)
    return np.stack(planes).astype(np.float32)


def _frames_of(path: Path, where: str) -> np.ndarray:
    try:
        with quiet():
            array = pydicom.dcmread(path).pixel_array
    except (RuntimeError, NotImplementedError, ValueError, AttributeError, OSError, EOFError):
        raise DataError(
            f"{where}: the frames of a multi-frame file cannot be decoded; it is damaged, or compressed in a way that "
            "needs a plugin (install pylibjpeg, or decompress it with gdcmconv --raw)."
        ) from None
    return array if array.ndim == 3 else array[None]


def same_pixels(first: SliceHeader, second: SliceHeader, root: Path) -> bool:
    """Whether two slices hold the same pixels; a file that cannot be read is like no other."""
    try:
        return bool(np.array_equal(read_pixels((first,), root, ""), read_pixels((second,), root, "")))
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
