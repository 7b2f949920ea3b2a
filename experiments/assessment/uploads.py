"""What a browser sent, put on the disk as a study: a zip is unpacked with limits, and nothing leaves its folder."""

from __future__ import annotations

import gzip
import stat
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from werkzeug.datastructures import FileStorage

from datamodules.cohort.columns import PHASES
from datamodules.errors import DataError

_CHUNK = 1 << 20
_RATIO, _SMALL = 200, 1 << 24
"""A file of more than 16 MB that unpacks to more than this many times its size is a bomb, and no scan."""


@dataclass(frozen=True)
class Limits:
    """How much one study may be.

    Args:
        upload_bytes: Bytes of a request.
        unpacked_bytes: Bytes of all files of a study on the disk, and of a NIfTI file in memory.
        files: Number of files.
    """

    upload_bytes: int = 2 << 30
    unpacked_bytes: int = 6 << 30
    files: int = 20_000


def receive(folder: Path, study: FileStorage, mask: FileStorage | None, phase: str, limits: Limits) -> Path:
    """Put a study into a folder, under names of our own.

    Args:
        folder: An empty folder.
        study: A zip of DICOM files, or of NIfTI files called after their phases, or one NIfTI file.
        mask: Label map as NIfTI; None where the study holds one.
        phase: Contrast phase of one NIfTI file; empty where it is not known, or the study says it.
        limits: What is refused.

    Returns:
        The study's folder.

    Raises:
        DataError: in a sentence, if it is neither, too large, damaged or made to harm.
    """
    root = folder / "study"
    root.mkdir()
    kind = _kind(study.filename)
    if kind == "zip":
        packed = folder / "study.zip"
        study.save(packed)
        unpack(packed, root, limits)
        packed.unlink()
    else:
        if phase and phase not in PHASES:
            raise DataError(f"The contrast phase is one of {', '.join(PHASES)}, or not known.")
        study.save(root / f"{phase or 'scan'}{kind}")
    if mask is not None:
        ending = _kind(mask.filename)
        if ending == "zip":
            raise DataError("The mask is a zip; expected one label map, .nii or .nii.gz.")
        mask.save(_top(root) / f"mask{ending}")
    for path in root.rglob("*.nii.gz"):
        _check_gzip(path, limits)
    return _top(root)


def _kind(name: str | None) -> str:
    lower = (name or "").lower()
    found = next((ending for ending in (".nii.gz", ".nii", ".zip") if lower.endswith(ending)), None)
    if found is None:
        raise DataError("The file is neither .zip nor .nii nor .nii.gz; send DICOM files as one zip.")
    return "zip" if found == ".zip" else found


def _top(root: Path) -> Path:
    """The folder that holds the study: below single folders, which a zip of a folder begins with."""
    while True:
        beside = [path for path in root.iterdir() if not path.name.startswith((".", "__MACOSX"))]
        if len(beside) != 1 or not beside[0].is_dir():
            return root
        root = beside[0]


def unpack(packed: Path, folder: Path, limits: Limits) -> None:
    """Unpack a zip.

    What the zip says of its sizes is not believed: bytes are counted as they come.

    Args:
        packed: The zip.
        folder: Where its files go.
        limits: What is refused.

    Raises:
        DataError: if it is damaged or encrypted, has too many files or bytes, unpacks to far more than it is, or has a
            name that leads out of the folder, or a link.
    """
    try:
        with zipfile.ZipFile(packed) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            if len(entries) > limits.files:
                raise DataError(f"The zip holds {len(entries)} files; at most {limits.files} are taken.")
            left = limits.unpacked_bytes
            for entry in entries:
                _check_entry(entry)
                target = folder.joinpath(*PurePosixPath(entry.filename).parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, target.open("xb") as out:
                    left -= _copied(source, out.write, _allowed(entry.compress_size, left), limits)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError("The zip is damaged, or packed in a way that is not known here; pack it again.") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise DataError("The zip holds two files of one name; pack it again.") from error


def _check_entry(entry: zipfile.ZipInfo) -> None:
    parts = PurePosixPath(entry.filename).parts
    out = not parts or parts[0] == "/" or any(part == ".." or ":" in part or "\\" in part for part in parts)
    if out or "\x00" in entry.filename or len(entry.filename) > 500:
        raise DataError("The zip holds a name that leads out of its folder; nothing of it was read.")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise DataError("The zip holds a link; nothing of it was read. Pack the files themselves.")
    if entry.flag_bits & 1:
        raise DataError("The zip is encrypted; send it without a password.")


def _allowed(packed: int, left: int) -> int:
    return min(left, max(_SMALL, _RATIO * packed))


def _copied(source: IO[bytes] | gzip.GzipFile, write: Callable[[bytes], object], allowed: int, limits: Limits) -> int:
    """Bytes that were copied.

    Raises:
        DataError: as soon as there are more than are allowed.
    """
    count = 0
    while chunk := source.read(_CHUNK):
        count += len(chunk)
        if count > allowed:
            raise DataError(
                f"The study unpacks to more than {limits.unpacked_bytes >> 20} MB, or to {_RATIO} times what was sent; "
                "it was not read."
            )
        write(chunk)
    return count


def _check_gzip(path: Path, limits: Limits) -> None:
    """Refuse a compressed NIfTI that unpacks to too much, before anything reads it into memory."""
    try:
        with gzip.open(path) as source:
            allowed = _allowed(path.stat().st_size, limits.unpacked_bytes)
            _copied(source, len, allowed, limits)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError("A NIfTI file ends in .gz and cannot be unpacked; send it again.") from error
