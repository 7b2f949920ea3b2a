"""Hostile NIfTI and DICOM files, drawn by seed; a case is one bad patient among good ones."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pydicom

from datamodules.importers.dicom.dicom_source import DicomSource
from datamodules.importers.plan import CohortPlan
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.shards import VolumeSet, checksum
from tests.chaos.sandbox import Case
from tests.chaos.stage import Stage, import_manifest, import_slices, statuses

_HEADER = 352
_FIELDS = {"dim": (40, "<i2", 8), "datatype": (70, "<i2", 2), "pixdim": (76, "<f4", 8), "offset": (108, "<f4", 3),
           "codes": (252, "<i2", 2), "quaternion": (256, "<f4", 6), "sform": (280, "<f4", 12), "magic": (344, "u1", 4),
           "size": (0, "<i4", 1), "slices": (120, "<i2", 1)}  # fmt: skip
_VALUES = (0, 1, -1, 2, 7, 127, -128, 32767, -32768, 1e-30, 1e30, np.nan, np.inf, -np.inf, 0.5, 8)


def nifti_cases(stage: Stage, rng: np.random.Generator, count: int) -> Iterator[Case]:
    """Headers with fields of absurd values, cut and scrambled files."""
    for number in range(count):
        file = "ct1.nii.gz" if number % 3 else "mask1.nii.gz"
        how = rng.choice(["field", "field", "field", "bytes", "cut", "archive", "plain"])
        seed = int(rng.integers(2**31))
        yield Case(
            "NIfTI",
            f"{file.split('1')[0]}: {how} {seed}",
            lambda folder, file=file, how=how, seed=seed: _bad_nifti(stage, folder, file, str(how), seed),
            lambda folder, file=file: statuses(folder) == ["imported"] * 3 and _plausible(folder / "scans" / file),
            lambda folder: statuses(folder).count("imported") == 2,
        )


def _bad_nifti(stage: Stage, folder: Path, file: str, how: str, seed: int) -> list[str]:
    bad_nifti(stage.copy("scans", folder) / file, how, seed)
    return import_manifest(folder)


def bad_nifti(path: Path, how: str, seed: int) -> None:
    """Damage a compressed NIfTI file: a field or bytes of its header, its end, its archive."""
    rng = np.random.default_rng(seed)
    content = bytearray(gzip.decompress(path.read_bytes()))
    if how == "field":
        name = str(rng.choice(list(_FIELDS)))
        offset, kind, length = _FIELDS[name]
        with np.errstate(all="ignore"):
            values = np.array(rng.choice(_VALUES, length)).astype(kind)
        if name in ("pixdim", "quaternion"):
            content[252:256] = np.array([1, 0], "<i2").tobytes()  # the geometry is then that of the qform
        content[offset : offset + values.nbytes] = values.tobytes()
    elif how == "bytes":
        places = rng.integers(0, _HEADER, 12)
        for place in places:
            content[place] = int(rng.integers(256))
    elif how in ("cut", "plain"):
        content = content[: int(rng.integers(0, len(content)))]
    packed = bytearray(gzip.compress(bytes(content), 1))
    if how == "archive":
        packed[int(rng.integers(len(packed)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(bytes(content) if how == "plain" else bytes(packed))


def _plausible(path: Path) -> bool:
    """Whether a file is a scan or mask for another reader, with a geometry that a scanner can have."""
    try:
        stored = nibabel.load(path)
        data = np.asanyarray(stored.dataobj)
        with nibabel.openers.ImageOpener(str(path)) as file:
            raw = stored.header.from_fileobj(file, check=False)
    except Exception:
        return False
    spacing = np.linalg.norm(stored.affine[:3, :3], axis=0)
    flat = abs(np.linalg.det(stored.affine[:3, :3])) < 0.1 * spacing.prod()
    stated = raw["sform_code"] > 0 or (raw["qform_code"] > 0 and (np.abs(raw["pixdim"][1:4]) > 0).all())
    return bool(
        np.isfinite(stored.affine).all() and not flat and (spacing > 0.04).all() and (spacing < 21).all() and stated
        and np.isfinite(data).all() and data.squeeze().ndim == 3
    )  # fmt: skip


_PIXELS = b"\xe0\x7f\x10\x00"
_SEQUENCE, _ITEM = b"\x00\x52\x30\x92SQ\0\0\xff\xff\xff\xff", b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
_ITEM_ENDS, _SEQUENCE_ENDS = b"\xfe\xff\x0d\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0"


def _nested(depth: int) -> bytes:
    """PerFrameFunctionalGroupsSequence within itself, explicit little endian, of undefined length (PS3.5, 7.5)."""
    return (_SEQUENCE + _ITEM) * depth + (_ITEM_ENDS + _SEQUENCE_ENDS) * depth


_TAGS: tuple[tuple[str, tuple[object, ...]], ...] = (
    ("Rows", (0, 1, 65535)),
    ("Columns", (0, 1, 65535)),
    ("BitsAllocated", (0, 1, 8, 64)),
    ("NumberOfFrames", (0, -1, 2**31 - 1)),
    ("ImagePositionPatient", ([0, 0, 0], [1e30, 0, 0], ["nan", "nan", "nan"])),
    ("ImageOrientationPatient", ([0, 0, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0], [9, 9, 9, 9, 9, 9])),
    ("PixelSpacing", ([0, 0], [-1, -1], [1e9, 1e9], ["nan", "nan"])),
    ("RescaleSlope", (0, 1e30, "nan")),
    ("PatientID", ("", "../../escaped", "a" * 64 + "/b", "a\0b", "a|b")),
    ("PatientAge", ("999Y", "-01Y", "abcd")),
    ("BurnedInAnnotation", ("YES",)),
    ("SeriesInstanceUID", ("", "../../escaped", "x" * 64)),
    ("SOPClassUID", ("1.2.3",)),
    ("SamplesPerPixel", (0, 3, 65535)),
    ("SeriesDescription", ("VENOUS" * 500, "ART/VEN", "\x1b[31mred")),
)


def dicom_cases(stage: Stage, rng: np.random.Generator, count: int) -> Iterator[Case]:
    """Attributes of absurd values in every slice of a patient, flipped bits, cut files, deep sequences."""
    for number in range(count):
        seed = int(rng.integers(2**31))
        how = ("tag", "tag", "flip", "cut", "deep", "tag")[number % 6]
        harmless: list[bool] = []
        yield Case(
            "DICOM",
            f"{how} {seed}",
            lambda folder, how=how, seed=seed, harmless=harmless: _bad_dicom(stage, folder, how, seed, harmless),
            lambda folder, harmless=harmless: _accounted(folder) or bool(harmless) or _as_undamaged(stage, folder),
            lambda folder: statuses(folder).count("imported") >= 2,
        )


def _accounted(folder: Path) -> bool:
    """Whether the bad patient alone was left out, with a reason."""
    return statuses(folder).count("imported") == 2 and len(statuses(folder)) >= 3


def _bad_dicom(stage: Stage, folder: Path, how: str, seed: int, harmless: list[bool]) -> list[str]:
    rng = np.random.default_rng(seed)
    slices = stage.copy("slices", folder)
    paths = sorted((slices / "1").glob("I*"))
    if how == "tag":
        name, values = _TAGS[int(rng.integers(len(_TAGS)))]
        value = values[int(rng.integers(len(values)))]
        # Another identifier is another patient, and another description is none.
        harmless += [True] if name in ("PatientID", "SeriesDescription", "SOPClassUID", "PatientAge") else []
        for path in paths:
            dataset = pydicom.dcmread(path)
            with pydicom.config.disable_value_validation():
                setattr(dataset, name, value)
                dataset.save_as(path)
    elif how == "deep":
        for path in paths[:3]:
            content = path.read_bytes()
            pixels = content.rindex(_PIXELS)
            path.write_bytes(content[:pixels] + _nested(int(rng.integers(50, 5000))) + content[pixels:])
    else:
        path = paths[int(rng.integers(len(paths)))]
        content = bytearray(path.read_bytes())
        pixels = content.rindex(_PIXELS)
        if how == "cut":
            content = content[: int(rng.integers(len(content)))]
        else:
            content[int(rng.integers(132, pixels))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(content))
    return import_slices(folder)


def _as_undamaged(stage: Stage, folder: Path) -> bool:
    """Whether the volumes are those of the undamaged files."""
    volumes = VolumeSet.find(folder / "out")
    source = DicomSource(stage.root / "slices", CohortPlan("chaos"), folder / "undamaged")
    expected = set()
    for patient in source.patient_ids():
        with contextlib.suppress(Exception):
            record = source.load(patient, PreprocessingContract(grid=volumes.contract.grid))
            expected |= {checksum(volume.image) for volume in record.volumes}
    return set(volumes.index["crc32"].astype(int)) == expected
