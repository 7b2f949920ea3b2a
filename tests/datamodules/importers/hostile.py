"""Odd and damaged DICOM, NIfTI and CSV inputs, drawn with a seed: each is read right, or refused or noted in words.

    python -m tests.datamodules.importers.hostile [COUNT] [SEED]

draws COUNT damages, and then every kind of `odd_dicom`, `odd_nifti` and `odd_tables` once.

An input is silent when its volumes, masks or rows are others than those of the undamaged one and nobody says so; a
trace is any exception that is neither a refusal nor a skipped patient.
"""

from __future__ import annotations

import contextlib
import gzip
import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
from pydicom.dataset import Dataset

from datamodules.importers.companions import read_patients, read_reports
from datamodules.importers.dicom.dicom_source import DicomSource
from datamodules.importers.nifti.manifest import ManifestSource
from datamodules.importers.plan import CohortPlan
from datamodules.importers.records import Source
from tests.datamodules.importers import odd_dicom, odd_nifti, odd_tables
from tests.datamodules.importers.dicom_phantom import Scan, segmentation
from tests.datamodules.importers.nifti_phantom import AFFINE, labels, save, scan_hu
from tests.datamodules.importers.outcomes import CONTRACT, Outcome, Reader, contents, judge_source, judge_table

TAGS = re.findall(
    r"\w+",
    "SOPClassUID SOPInstanceUID PatientID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID Modality ImageType "
    "InstanceNumber ImagePositionPatient ImageOrientationPatient PixelSpacing SliceThickness Rows Columns "
    "BitsAllocated BitsStored HighBit PixelRepresentation RescaleSlope RescaleIntercept SamplesPerPixel "
    "PhotometricInterpretation PixelData SeriesDescription PatientAge PatientSex",
)
VALUES: tuple[Any, ...] = (
    "",
    "0",
    "-1",
    "1e9",
    "nan",
    "1,5",
    "8,0\\8,0",
    "\\",
    "x" * 70,
    "0\\0\\0",
    "1\\0\\0\\0\\1\\0",
)


def dicom_case(folder: Path, rng: np.random.Generator) -> tuple[str, Source]:
    """Twelve slices and their masks, of which some have a tag removed, replaced, swapped, or are cut or doubled."""
    paths = _write_dicom(folder)
    how = str(rng.choice(["remove", "replace", "swap", "cut", "double", "flip", "bare", "describe", "scale"]))
    chosen = rng.permutation(12)[: int(rng.choice([1, 6, 12]))]
    name = str(rng.choice(TAGS))
    value = VALUES[int(rng.integers(len(VALUES)))]
    if how == "swap":
        first, second = (pydicom.dcmread(paths[place]) for place in (0, 7))
        first.ImagePositionPatient, second.ImagePositionPatient = (
            second.ImagePositionPatient,
            first.ImagePositionPatient,
        )
        first.save_as(paths[0])
        second.save_as(paths[7])
        return "DICOM swap ImagePositionPatient", _dicom(folder)
    for place in chosen:
        path = paths[place]
        content = path.read_bytes()
        if how == "cut":
            path.write_bytes(content[: int(len(content) * rng.random())])
        elif how == "double":
            dataset = pydicom.dcmread(path)
            dataset.PixelData = bytes(rng.integers(0, 255, len(dataset.PixelData), dtype=np.uint8))
            dataset.save_as(folder / "in" / f"twice{place}")
        elif how == "flip":
            spoiled = bytearray(content)
            for at in rng.integers(140, 900, 4):
                spoiled[at] ^= int(rng.integers(1, 256))
            path.write_bytes(bytes(spoiled))
        elif how == "bare":
            path.write_bytes(content[132:])
        elif how == "describe":
            _change(path, "SeriesDescription", "ABD ARTERIAL")
        elif how == "scale":
            _change(path, str(rng.choice(["RescaleSlope", "RescaleIntercept"])), None)
        else:
            _change(path, name, None if how == "remove" else value)
    words = {"remove": name, "replace": f"{name} by {value!r}"}.get(how, "")
    return f"DICOM {how} {words} of {len(chosen)}", _dicom(folder)


def _change(path: Path, name: str, value: str | None) -> None:
    dataset = pydicom.dcmread(path)
    if value is None:
        if name in dataset:
            delattr(dataset, name)
    else:
        tag = pydicom.datadict.tag_for_keyword(name)
        assert tag is not None
        raw: Dataset = dataset
        raw[tag] = pydicom.DataElement(
            tag, "LO" if name != "PixelData" else "OB", value if name != "PixelData" else b"\1"
        )
    dataset.save_as(path)


def _write_dicom(folder: Path) -> list[Path]:
    segmentation(Scan()).save_as(_made(folder / "in") / "seg", enforce_file_format=True)
    return Scan().write(folder / "in")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _dicom(folder: Path) -> Source:
    return DicomSource(folder / "in", CohortPlan("hostile"), folder / "out")


def nifti_case(folder: Path, rng: np.random.Generator) -> tuple[str, Source]:
    """A scan and a mask, of which one has another header, other values, or is cut."""
    _write_nifti(folder)
    which = str(rng.choice(["ct.nii.gz", "mask.nii.gz"]))
    how = str(
        rng.choice(
            ["cut", "flip", "header", "scale", "shift", "mirror", "nan", "shape", "near", "sform", "speck", "clip"]
        )
    )
    path = folder / which
    image = nibabel.load(path)
    data = np.asarray(image.dataobj)
    if how == "cut":
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * rng.random())])
    elif how in ("flip", "header"):
        content = bytearray(gzip.decompress(path.read_bytes()))
        for at in rng.integers(0, 348, 3 if how == "flip" else 1):
            content[at] = int(rng.integers(0, 256))
        path.write_bytes(gzip.compress(bytes(content)))
    elif how == "scale":
        save(path, (data * rng.choice([2, 0.5, -1, 10])).astype(np.float32))
    elif how == "shift":
        save(path, (data + rng.choice([-1024, 1024, -2048, 700])).astype(np.float32))
    elif how == "mirror":
        save(path, np.flip(data, axis=int(rng.integers(3))).copy())
    elif how == "nan":
        spoiled = data.astype(np.float32)
        spoiled[5, 5, 5] = rng.choice([np.nan, np.inf])
        save(path, spoiled)
    elif how == "shape":
        save(path, data[:, :, : int(rng.integers(1, 20))])
    elif how == "speck":
        path = folder / "mask.nii.gz"  # one bright voxel of a scan may be a seed or a clip, and is no damage to see
        data = labels()
        dotted = data.copy()
        dotted[tuple(rng.integers(0, 3, 3))] = 1
        save(path, dotted)
    elif how == "clip":
        save(path, np.clip(data, -150, int(rng.choice([150, 250, 400]))))
    elif how == "near":
        save(path, data.astype(np.float32) * np.float32(1 + rng.choice([1e-5, 0.3])))
    else:
        turned = np.diag([*rng.choice([-1.0, 1.0, 2.0], 3), 1.0]) @ AFFINE
        plain = nibabel.Nifti1Image(data, AFFINE)
        plain.set_qform(AFFINE, code=1)
        plain.set_sform(turned, code=1)
        nibabel.save(plain, path)
    return f"NIfTI {how} of {which}", _nifti(folder)


def _write_nifti(folder: Path) -> None:
    save(folder / "ct.nii.gz", scan_hu())
    save(folder / "mask.nii.gz", labels())


def _nifti(folder: Path) -> Source:
    head = "patient_id,study_id,series_id,center,phase,image,mask\n"
    (folder / "manifest.csv").write_text(head + "p1,e1,s1,c,venous,ct.nii.gz,mask.nii.gz\n")
    return ManifestSource(folder / "manifest.csv", CohortPlan("hostile"))


PATIENTS = "patient_id,age_years,sex,malignancy,os_months,os_event\np1,63,male,1,12.5,true\np2,71,female,0,30,false\n"
REPORTS = 'study_id,text\ne1,"Left renal mass, 3 cm."\ne2,No mass.\n'


def csv_case(folder: Path, rng: np.random.Generator) -> tuple[str, Path, Reader, Any]:
    """A clinical table or reports of which the form was changed, what reads it, and what it must give."""
    text, read = ((PATIENTS, read_patients), (REPORTS, read_reports))[int(rng.integers(2))]
    path = folder / ("patients.csv" if read is read_patients else "reports.csv")
    path.write_text(text)
    truth = read(path)
    how = str(
        rng.choice(
            ["semicolon", "tab", "bom", "utf16", "crlf", "unquote", "double", "drop", "cut", "float", "nul", "case"]
        )
    )
    content = text.encode()
    if how in ("semicolon", "tab"):
        mark = ";" if how == "semicolon" else "\t"
        text = text.replace(",", mark).replace(f"mass{mark} 3", "mass, 3").replace("12.5", "12,5")
        content = text.encode()
    elif how == "bom":
        content = b"\xef\xbb\xbf" + content
    elif how == "utf16":
        content = text.encode("utf-16")
    elif how == "crlf":
        content = text.replace("\n", "\r\n").encode()
    elif how == "unquote":
        content = text.replace('"', "").encode()
    elif how == "double":
        lines = text.splitlines()
        content = "\n".join(f"{line},{line.split(',')[-1]}" for line in lines).encode()
    elif how == "drop":
        lines = text.splitlines()
        at = int(rng.integers(1, len(lines)))
        lines[at] = lines[at].rpartition(",")[0]
        content = "\n".join(lines).encode()
    elif how == "cut":
        content = content[: int(rng.integers(1, len(content)))].rstrip(b"\n")  # between two rows nobody can see it
    elif how == "float":
        content = text.replace("true", "1.0").replace("false", "0.0").replace(",1,", ",1.0,").encode()
    elif how == "nul":
        content = text.replace("p1", "p1\0x").replace("e1", "e1\0x").encode()
    else:
        content = (
            text.replace("study_id", "Study_ID").replace("patient_id", "PATIENT_ID").replace(",male", ",M").encode()
        )
    path.write_bytes(content)
    return f"CSV {how} of {read.__name__}", path, read, truth


def truth_of(kind: str, folder: Path) -> dict[Any, Any]:
    """Volumes of the undamaged files."""
    if kind == "DICOM":
        _write_dicom(folder)
        source: Source = _dicom(folder)
    else:
        _write_nifti(folder)
        source = _nifti(folder)
    (patient,) = source.patient_ids()
    return contents(source.load(patient, CONTRACT))


def run(count: int, seed: int) -> list[Outcome]:
    """Draw and judge inputs.

    Args:
        count: Number of inputs: two of five are DICOM, three of ten NIfTI, three of ten CSV.
        seed: Seed of all of them.
    """
    outcomes: list[Outcome] = []
    with _workplace() as (root, truths):
        for number in range(count):
            rng = np.random.default_rng([seed, number])
            folder = _made(root / str(number))
            kind = ("DICOM", "NIfTI", "CSV", "DICOM", "NIfTI", "CSV", "DICOM", "NIfTI", "CSV", "DICOM")[number % 10]
            if kind == "CSV":
                outcomes.append(judge_table(*csv_case(folder, rng)))
            else:
                case, source = dicom_case(folder, rng) if kind == "DICOM" else nifti_case(folder, rng)
                outcomes.append(judge_source(f"{number} {case}", source, truths[kind]))
    return outcomes


def run_odd(seed: int) -> list[Outcome]:
    """Judge every kind of odd scan and odd table once."""
    outcomes: list[Outcome] = []
    with _workplace() as (root, truths):
        for number, scan in enumerate((*odd_dicom.KINDS, *odd_nifti.KINDS, *odd_tables.KINDS)):
            rng = np.random.default_rng([seed, number])
            folder = _made(root / str(number))
            if scan in odd_dicom.KINDS:
                _write_dicom(folder)
                scan(folder / "in", rng)
                outcomes.append(judge_source(f"DICOM {scan.__name__}", _dicom(folder), truths["DICOM"]))
            elif scan in odd_nifti.KINDS:
                _write_nifti(folder)
                scan(folder, rng)
                outcomes.append(judge_source(f"NIfTI {scan.__name__}", _nifti(folder), truths["NIfTI"]))
            else:
                outcomes.append(judge_table(*odd_table(scan, folder, rng)))
    return outcomes


@contextlib.contextmanager
def _workplace() -> Iterator[tuple[Path, dict[str, dict[Any, Any]]]]:
    """A folder, and the volumes of the undamaged files."""
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = Path(name)
        yield root, {kind: truth_of(kind, _made(root / kind)) for kind in ("DICOM", "NIfTI")}


def odd_table(kind: odd_tables.Kind, folder: Path, rng: np.random.Generator) -> tuple[str, Path, Reader, Any]:
    """A clinical table or reports made odd in one way, what reads it, and what it must give."""
    text, read = ((PATIENTS, read_patients), (REPORTS, read_reports))[int(rng.integers(2))]
    path = folder / ("patients.csv" if read is read_patients else "reports.csv")
    path.write_text(text)
    truth = read(path)
    path.write_bytes(kind(text, rng))
    return f"CSV {kind.__name__} of {read.__name__}", path, read, truth


def main() -> int:
    """Print how many inputs were read right, refused or noted, silent, or ended in a trace."""
    count, seed = (int(text) for text in (*sys.argv[1:], "100", "23")[:2])
    outcomes = [*run(count, seed), *run_odd(seed)]
    print(len(outcomes), dict(Counter(kind for kind, _ in outcomes)))
    for kind, text in outcomes:
        if kind in ("silent", "trace"):
            print(kind, text)
    return int(any(kind in ("silent", "trace") for kind, _ in outcomes))


if __name__ == "__main__":
    sys.exit(main())
