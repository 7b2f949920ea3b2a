"""Odd DICOM files, one function a kind: what hospitals and archives are known to leave behind.

Each kind changes the files of one patient in a folder; what is drawn, is drawn from the generator that it is handed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

from tests.datamodules.importers.dicom_phantom import Scan, segmentation

Kind = Callable[[Path, np.random.Generator], None]


def slices(folder: Path) -> list[Path]:
    """Files of the scan, in the order of their positions."""
    return sorted(folder.glob("I*"))


def each(folder: Path, change: Callable[[int, Dataset], object], chosen: list[int] | None = None) -> None:
    """Change slices, all by default."""
    paths = slices(folder)
    for place in range(len(paths)) if chosen is None else chosen:
        dataset = pydicom.dcmread(paths[place])
        change(place, dataset)
        dataset.save_as(paths[place])


def some(rng: np.random.Generator, total: int = 12) -> list[int]:
    """Between one and all but one of the slices."""
    return sorted(rng.permutation(total)[: int(rng.integers(1, total))].tolist())


def stored(dataset: Dataset) -> np.ndarray:
    """Stored values [row, column], int16."""
    return np.frombuffer(dataset.PixelData, "<i2").reshape(dataset.Rows, dataset.Columns)


def put(dataset: Dataset, values: np.ndarray) -> None:
    dataset.PixelData = np.ascontiguousarray(values).astype("<i2").tobytes()


def number_in_two_spellings(folder: Path, rng: np.random.Generator) -> None:
    spelled = ("mrn-0042", "MRN-042", "MRN 0042", "MRN-0042^A", "0042")[int(rng.integers(5))]
    each(folder, lambda _, one: setattr(one, "PatientID", spelled), some(rng))


def other_intercept_of_some(folder: Path, rng: np.random.Generator) -> None:
    value = int(rng.choice([0, -1000, -2048, -1124]))
    each(folder, lambda _, one: setattr(one, "RescaleIntercept", value), some(rng))


def other_slope_of_some(folder: Path, rng: np.random.Generator) -> None:
    value = float(rng.choice([2, 0.5, 1.5]))
    each(folder, lambda _, one: setattr(one, "RescaleSlope", value), some(rng))


def a_scale_of_its_own_in_each(folder: Path, rng: np.random.Generator) -> None:
    """Right: as scanners of positron emission write their CT, too."""

    def change(place: int, one: Dataset) -> None:
        slope, intercept = 0.5 + place % 3 * 0.25, -1024 - place
        hu = stored(one).astype(float) - 1024
        one.RescaleSlope, one.RescaleIntercept = slope, intercept
        put(one, np.round((hu - intercept) / slope))

    each(folder, change)


def upside_down(folder: Path, rng: np.random.Generator) -> None:
    each(folder, lambda _, one: _move(one, lambda at: [at[0], at[1], -at[2]]))


def moved(folder: Path, rng: np.random.Generator) -> None:
    by = rng.choice([-60.0, -40.0, 40.0, 60.0]) * np.eye(3)[int(rng.integers(3))]
    each(folder, lambda _, one: _move(one, lambda at: (np.array(at) + by).tolist()))


def _move(dataset: Dataset, where: Callable[[list[float]], list[float]]) -> None:
    dataset.ImagePositionPatient = where([float(value) for value in dataset.ImagePositionPatient])


def turned_rows(folder: Path, rng: np.random.Generator) -> None:
    axes = ([-1, 0, 0, 0, 1, 0], [1, 0, 0, 0, -1, 0], [0, 1, 0, 1, 0, 0])[int(rng.integers(3))]
    each(folder, lambda _, one: setattr(one, "ImageOrientationPatient", axes))


def turned_pixels(folder: Path, rng: np.random.Generator) -> None:
    turn = (np.transpose, np.flipud, np.rot90)[int(rng.integers(3))]
    each(folder, lambda _, one: put(one, turn(stored(one))))


def pixels_moved_by_bytes(folder: Path, rng: np.random.Generator) -> None:
    count = int(rng.choice([1, 5, 33]))  # by whole pixels nobody can see it
    each(folder, lambda _, one: setattr(one, "PixelData", one.PixelData[count:] + one.PixelData[:count]), some(rng))


def bytes_exchanged(folder: Path, rng: np.random.Generator) -> None:
    chosen = some(rng) if rng.random() < 0.5 else None
    each(folder, lambda _, one: setattr(one, "PixelData", stored(one).byteswap().tobytes()), chosen)


def bits_at_the_top(folder: Path, rng: np.random.Generator) -> None:
    """Twelve bits in the upper part of sixteen, as HighBit 15 says."""

    def change(_: int, one: Dataset) -> None:
        one.BitsStored, one.HighBit, one.PixelRepresentation = 12, 15, 0
        one.PixelData = (np.clip(stored(one), 0, 4095).astype("<u2") << 4).tobytes()

    each(folder, change)


def noise_above_the_bits(folder: Path, rng: np.random.Generator) -> None:
    """Right: overlays stood in the unused bits once."""

    def change(_: int, one: Dataset) -> None:
        one.BitsStored, one.HighBit, one.PixelRepresentation = 12, 11, 0
        noise = rng.integers(0, 16, stored(one).shape).astype("<u2") << 12
        one.PixelData = (np.clip(stored(one), 0, 4095).astype("<u2") | noise).tobytes()

    each(folder, change)


def other_syntax(folder: Path, rng: np.random.Generator) -> None:
    """Right: big endian, implicit, deflated or run-length."""
    chosen = (ExplicitVRBigEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless)
    syntax = chosen[int(rng.integers(4))]
    for place, path in enumerate(slices(folder)):
        dataset = Scan().slice(place)
        if syntax == RLELossless:
            dataset.compress(RLELossless, generate_instance_uid=False)
        else:
            dataset.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = stored(dataset).byteswap().tobytes()
        order = {"little_endian": syntax != ExplicitVRBigEndian, "implicit_vr": syntax == ImplicitVRLittleEndian}
        pydicom.dcmwrite(path, dataset, **order, force_encoding=True)


def syntax_that_is_another(folder: Path, rng: np.random.Generator) -> None:
    """The file says another transfer syntax than it is written in."""
    other = (ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless)[int(rng.integers(3))]
    for path in slices(folder):
        said, is_so = (str(uid).encode() + b"\0" * (len(str(uid)) % 2) for uid in (other, ExplicitVRLittleEndian))
        content = path.read_bytes()
        at = content.index(is_so)
        path.write_bytes(content[:at] + said.ljust(len(is_so), b"\0")[: len(is_so)] + content[at + len(is_so) :])


def outer_slices_missing(folder: Path, rng: np.random.Generator) -> None:
    """The first are missing, or the last of those that the files count; what nobody counts, nobody
    misses."""
    paths, count = slices(folder), int(rng.integers(1, 6))
    if rng.random() < 0.5:
        each(folder, lambda _, one: setattr(one, "ImagesInAcquisition", 12))
        paths = paths[::-1]
    for path in paths[:count]:
        path.unlink()


def inner_slices_missing(folder: Path, rng: np.random.Generator) -> None:
    for place in rng.permutation(np.arange(1, 11))[: int(rng.integers(1, 4))]:
        slices(folder)[int(place)].unlink() if len(slices(folder)) > int(place) else None


def twice_under_new_identifiers(folder: Path, rng: np.random.Generator) -> None:
    """Right: an archive that was copied twice."""
    (folder / "copy").mkdir()
    for path in slices(folder):
        dataset = pydicom.dcmread(path)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.save_as(folder / "copy" / path.name)


def one_picture_in_two_places(folder: Path, rng: np.random.Generator) -> None:
    """A picture stands for that of its neighbour, too."""
    first = int(rng.integers(3, 8))
    pixels = pydicom.dcmread(slices(folder)[first]).PixelData
    each(folder, lambda _, one: setattr(one, "PixelData", pixels), [first + 1])


def blank_pictures(folder: Path, rng: np.random.Generator) -> None:
    value = int(rng.choice([0, 24, 1024, 2000]))
    each(
        folder,
        lambda _, one: put(one, np.full((16, 16), value)),
        sorted(rng.permutation(np.arange(2, 10))[:2].tolist()),
    )


def two_scans_under_one_number(folder: Path, rng: np.random.Generator) -> None:
    """A second scan of the same body, half a step away, with its own noise and the same identifiers."""
    other = Scan(seed=7, center_z_mm=float(rng.choice([5.0, 3.0, 0.0])), first_instance=int(rng.choice([1, 13])))
    other.write(folder / "other")


def segmentation_of_another(folder: Path, rng: np.random.Generator) -> None:
    """The mask lies elsewhere."""
    away = float(rng.choice([-60, -40, 40, 60])) * np.eye(3)[int(rng.integers(3))]
    dataset = segmentation(Scan())
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        place = frame.PlanePositionSequence[0]
        place.ImagePositionPatient = (np.array(place.ImagePositionPatient, dtype=float) + away).tolist()
    dataset.save_as(folder / "seg", enforce_file_format=True)


def sides_exchanged_in_the_segmentation(folder: Path, rng: np.random.Generator) -> None:
    """Segments say left where the right kidney lies."""
    dataset = segmentation(Scan())
    frames = list(dataset.PerFrameFunctionalGroupsSequence)
    masks = pydicom.pixels.unpack_bits(dataset.PixelData, as_array=True)[: len(frames) * 256].reshape(-1, 16, 16)
    kept, planes = [], []
    for number, half in ((1, slice(8, 16)), (2, slice(0, 8))):  # columns run to the patient's left
        for frame, mask in zip(frames, masks, strict=True):
            if frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber != 1:
                continue
            own, identification, plane = Dataset(), Dataset(), np.zeros_like(mask)
            identification.ReferencedSegmentNumber = number
            own.PlanePositionSequence = frame.PlanePositionSequence
            own.SegmentIdentificationSequence = [identification]
            plane[:, half] = mask[:, half]
            kept.append(own)
            planes.append(plane)
    for item, name in zip(dataset.SegmentSequence, ("Right kidney", "Left kidney"), strict=True):
        item.SegmentLabel = name
    dataset.PerFrameFunctionalGroupsSequence, dataset.NumberOfFrames = kept, len(kept)
    dataset.PixelData = pydicom.pixels.pack_bits(np.stack(planes))
    dataset.save_as(folder / "seg", enforce_file_format=True)


def numbers_in_odd_words(folder: Path, rng: np.random.Generator) -> None:
    """Right: blanks, signs and exponents around numbers."""

    def change(_: int, one: Dataset) -> None:
        place = [float(value) for value in one.ImagePositionPatient]
        with pydicom.config.disable_value_validation():
            one.ImagePositionPatient = [f" {value:+.6E}"[:16] for value in place]
            one.RescaleIntercept, one.RescaleSlope = " -1.024E+03", "1."
            one.PixelSpacing = ["16.", " +16"]

    each(folder, change)


def odd_names(folder: Path, rng: np.random.Generator) -> None:
    """Right: names of files that no program wrote."""
    odd = [b"\xff\xfe", b" ", b".hidden", b"a" * 200, "ÄÖ ü".encode(), b"-rf", b"new\nline", b"%s{}", b"'\"", b"a.txt"]
    for path, name in zip(slices(folder), odd, strict=False):
        os.rename(os.fsencode(path), os.path.join(os.fsencode(folder), name))


def things_that_are_no_files(folder: Path, rng: np.random.Generator) -> None:
    """Right: a pipe, which nobody writes, a link to nothing, one to itself, an empty file, a text that says DICM."""
    os.mkfifo(folder / "pipe")
    (folder / "nothing").symlink_to(folder / "gone")
    (folder / "self").symlink_to(folder / "self")
    (folder / "empty").touch()
    (folder / "text").write_bytes(b" " * 128 + b"DICM and nothing else")


def inverted_grey(folder: Path, rng: np.random.Generator) -> None:
    """Right: how a picture is to be shown says nothing of HU."""
    each(folder, lambda _, one: setattr(one, "PhotometricInterpretation", "MONOCHROME1"))


def colour(folder: Path, rng: np.random.Generator) -> None:
    def change(_: int, one: Dataset) -> None:
        grey = np.clip(stored(one) // 8, 0, 255).astype(np.uint8)
        one.SamplesPerPixel, one.PhotometricInterpretation, one.PlanarConfiguration = 3, "RGB", 0
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 8, 8, 7, 0
        one.PixelData = np.repeat(grey[..., None], 3, axis=2).tobytes()

    each(folder, change)


def stretched_pixels(folder: Path, rng: np.random.Generator) -> None:
    """Pixels of two sizes are stated the wrong way round: half the width, twice the height."""
    each(folder, lambda _, one: setattr(one, "PixelSpacing", [32, 8]))


def unsigned_in_some(folder: Path, rng: np.random.Generator) -> None:
    """HU as they are, negative ones too, in slices of which some say that there are none."""

    def change(place: int, one: Dataset) -> None:
        put(one, stored(one) - 1024)
        one.RescaleIntercept = 0
        one.PixelRepresentation = int(place not in chosen)

    chosen = some(rng)
    each(folder, change)


KINDS: tuple[Kind, ...] = (
    number_in_two_spellings, other_intercept_of_some, other_slope_of_some, a_scale_of_its_own_in_each, upside_down,
    moved, turned_rows, turned_pixels, pixels_moved_by_bytes, bytes_exchanged, bits_at_the_top, noise_above_the_bits,
    other_syntax, syntax_that_is_another, outer_slices_missing, inner_slices_missing, twice_under_new_identifiers,
    one_picture_in_two_places, blank_pictures, two_scans_under_one_number, segmentation_of_another,
    sides_exchanged_in_the_segmentation, numbers_in_odd_words, odd_names, things_that_are_no_files, inverted_grey,
    colour, stretched_pixels, unsigned_in_some,
)  # fmt: skip
