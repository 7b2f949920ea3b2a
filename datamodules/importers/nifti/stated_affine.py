"""Which of the geometries that a NIfTI header states is the scan's: sform, qform and pixdim may contradict each other.

NIfTI-1 gives no order of precedence that all programs keep: nibabel takes the sform, ITK under some versions the qform,
so that a mask drawn by one program may lie elsewhere for another.
"""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from nibabel.nifti1 import Nifti1Image

from datamodules.errors import DataError

_SAME_VOXELS = 0.5
"""Two geometries are one where no corner of the scan lies further apart, in voxels of the smallest edge."""
_LEAST_VOLUME = 0.3
_PLANES = {"LR": "left and right", "AP": "front and back", "IS": "up and down"}


def stated_affine(stored: Nifti1Image, path: Path, where: str) -> tuple[np.ndarray, list[str]]:
    """The affine [4, 4] from voxels to RAS millimetres that a header states, and notes for the import report.

    Where sform and qform disagree, the one whose voxels have the size of pixdim is taken if the other is no more than a
    default (voxels of 1 mm along the axes) or spans no space; a mere shift is noted, and all else is refused.

    Args:
        stored: The image.
        path: Its file.
        where: How messages name it.

    Raises:
        DataError: if the header states no orientation, or two that contradict each other.
    """
    header = stored.header
    found = {
        name: affine
        for name, affine in (("sform", _affine(header, "sform")), ("qform", _affine(header, "qform")))
        if affine is not None
    }
    if not found:
        # Without a trustworthy affine nobody can tell left from right.
        raise DataError(
            f"{where}: the file does not state its orientation (sform and qform codes are 0, or hold no numbers); left "
            "and right cannot be told apart. Convert it again from DICOM."
        )
    sizes = _pixdim(stored, path)
    if len(found) == 1:
        ((name, affine),) = found.items()
        return affine, _against_pixdim(name, affine, sizes, where)
    sform, qform = found["sform"], found["qform"]
    if _same(sform, qform, stored.shape[:3]):
        return sform, []
    if _trivial(sform) and not _trivial(qform):
        return qform, [f"{where}: {_sizes(sform, qform)}; the sform is a default and the qform was taken."]
    if _trivial(qform) and not _trivial(sform) and _fits(sform, sizes):
        return sform, [f"{where}: {_sizes(sform, qform)}; the qform is a default and the sform was taken."]
    if np.allclose(sform[:3, :3], qform[:3, :3], atol=1e-2 * _edge(sform)):
        shift = float(np.linalg.norm(sform[:3, 3] - qform[:3, 3]))
        return sform, [f"{where}: sform and qform place the scan {shift:.0f} mm apart; the sform was taken."]
    raise DataError(
        f"{where}: the sform and the qform of its header contradict each other ({_contradiction(sform, qform)}), and "
        "programs differ in which of them they read; expected one geometry. Convert it again from DICOM, or set both "
        "to the right one."
    )


def _affine(header: nibabel.nifti1.Nifti1Header, name: str) -> np.ndarray | None:
    """One of the two affines; None where its code is 0 or it spans no space."""
    try:
        affine, code = getattr(header, f"get_{name}")(coded=True)
    except (ValueError, nibabel.spatialimages.HeaderDataError, np.linalg.LinAlgError):
        return None  # a quaternion that is none
    if not code or affine is None or not np.isfinite(affine).all():
        return None
    lengths = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    spans = bool(abs(np.linalg.det(affine[:3, :3])) > _LEAST_VOLUME * lengths.prod() > 0)
    other = header["qform_code" if name == "sform" else "sform_code"]
    return np.asarray(affine, dtype=float) if spans or not other else None


def _pixdim(stored: Nifti1Image, path: Path) -> np.ndarray:
    """Sizes of a voxel as the file states them; the library puts 1 mm where they are 0."""
    with nibabel.openers.ImageOpener(str(path)) as file:
        raw = type(stored.header).from_fileobj(file, check=False)
    return np.abs(np.asarray(raw["pixdim"][1:4], dtype=float))


def _against_pixdim(name: str, affine: np.ndarray, sizes: np.ndarray, where: str) -> list[str]:
    """Refuse voxels of two sizes; sizes of 1 and 0 are what programs leave there that write an affine alone."""
    if name == "qform":  # it is made of pixdim, in whose place the library puts 1 mm where the file states 0
        if (sizes == 0).any():
            raise DataError(
                f"{where}: voxels of {_text(sizes)} mm were found; expected 0.05 to 20 mm in each direction."
            )
        return []
    if _fits(affine, sizes) or not np.isfinite(sizes).all() or (sizes == 0).any() or (sizes == 1).all():
        return []
    raise DataError(
        f"{where}: its header states two sizes of a voxel, {_text(_lengths(affine))} mm by the sform and "
        f"{_text(sizes)} mm by pixdim; expected one. Convert it again from DICOM."
    )


def _lengths(affine: np.ndarray) -> np.ndarray:
    return np.asarray(np.sqrt((affine[:3, :3] ** 2).sum(axis=0)))


def _edge(affine: np.ndarray) -> float:
    return float(_lengths(affine).min())


def _fits(affine: np.ndarray, sizes: np.ndarray) -> bool:
    return bool(np.allclose(_lengths(affine), sizes, rtol=0.02, atol=1e-3))


def _same(first: np.ndarray, second: np.ndarray, shape: tuple[int, ...]) -> bool:
    corners = np.array(np.meshgrid(*[(0, count - 1) for count in shape], indexing="ij")).reshape(3, -1)
    apart = (first - second) @ np.vstack([corners, np.ones(8)])
    return bool(np.linalg.norm(apart[:3], axis=0).max() <= _SAME_VOXELS * _edge(second))


def _trivial(affine: np.ndarray) -> bool:
    """Whether an affine is what a program writes that knows none: voxels of 1 mm along the axes."""
    return bool(np.allclose(np.abs(affine[:3, :3]), np.eye(3), atol=1e-6))


def _contradiction(sform: np.ndarray, qform: np.ndarray) -> str:
    if not np.allclose(_lengths(sform), _lengths(qform), rtol=0.02):
        return _sizes(sform, qform)
    axes = [nibabel.aff2axcodes(affine) for affine in (sform, qform)]
    if axes[0] != axes[1]:
        differ = {frozenset(pair) for pair in zip(*axes, strict=True)}
        words = ", ".join(name for pair, name in _PLANES.items() if frozenset(pair) in differ) or "axes"
        return f"{words} are exchanged: {''.join(axes[0])} against {''.join(axes[1])}"
    return "their axes are turned against each other"


def _sizes(sform: np.ndarray, qform: np.ndarray) -> str:
    return f"voxels of {_text(_lengths(sform))} mm by the sform and of {_text(_lengths(qform))} mm by the qform"


def _text(lengths: np.ndarray) -> str:
    return " x ".join(f"{length:.3g}" for length in lengths)
