"""The series of one study: read, each region of interest cut out, and everything left out named."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torchio as tio

from datamodules.errors import DataError
from datamodules.importers.kidney_places import in_place
from datamodules.importers.locate import LocatedKidney, draws_lesions
from datamodules.importers.plausibility import check_tissue
from datamodules.importers.records import SkipPatient
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.crop import crop_roi
from datamodules.volumes.roi import Volume

Located = tuple[list[LocatedKidney], list[str]]


@dataclass(frozen=True)
class SeriesInput:
    """One series that can be read.

    Args:
        series_id: Identifier in the cohort.
        where: How messages name it.
        phase: Contrast phase.
        phase_evidence: What the phase was read from.
        read: Gives the scan and notes.
        locate: Gives the kidneys of the scan and notes; None where no mask or box belongs to this series, which then
            takes the kidneys of another series of its study.
        slice_thickness_mm: Nominal thickness, where stated.
    """

    series_id: str
    where: str
    phase: str
    phase_evidence: str
    read: Callable[[], tuple[tio.ScalarImage, list[str]]]
    locate: Callable[[tio.ScalarImage], Located] | None = None
    slice_thickness_mm: float | None = None


@dataclass(frozen=True)
class StudyInput:
    """The series of one examination.

    Args:
        study_id: Identifier in the cohort.
        series: What can be read.
        reports: Its rows of `reports.csv`.
        days_from_origin: Days from the patient's `time_origin`; None where not known.
    """

    study_id: str
    series: Sequence[SeriesInput]
    reports: Sequence[Mapping[str, Any]] = ()
    days_from_origin: int | None = None


@dataclass
class Reasons:
    """What was left out of a patient, and whether a damaged file was the cause."""

    texts: list[str] = field(default_factory=list)
    damaged: bool = False

    def add(self, text: str, *, damaged: bool = False) -> None:
        """Keep one reason or note."""
        self.texts.append(text)
        self.damaged = self.damaged or damaged

    def stop(self, patient_id: str) -> None:
        """End the import of a patient of whom nothing could be used.

        Raises:
            DataError: if a file was damaged, so that the patient counts as failed and is tried again.
            SkipPatient: otherwise.
        """
        text = " ".join([f"{patient_id}: no usable series.", *self.texts])
        if self.damaged:
            raise DataError(text)
        raise SkipPatient(text)


@dataclass
class StudyCut:
    """What one study has given so far.

    Args:
        kidneys: Those of the mask that says most of the study.
        own: The kidneys that each series was cut around, by its identifier.
        rows: Rows of the table `series`.
        volumes: Volumes of all series.
    """

    kidneys: list[LocatedKidney] = field(default_factory=list)
    own: dict[str, list[LocatedKidney]] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    volumes: list[Volume] = field(default_factory=list)


def cut_study(study: StudyInput, contract: PreprocessingContract, reasons: Reasons) -> StudyCut:
    """Read the series of a study one after another, those with a mask of their own first.

    All are cut at one place, that of the mask that says most, whatever the others draw; a series in which a kidney lies
    elsewhere, as its own mask shows, is cut there.

    Args:
        study: What can be read.
        contract: Preprocessing contract.
        reasons: What was already left out; notes are added.
    """
    cut = StudyCut()
    drawn_apart: list[SeriesInput] = []
    for series in sorted(study.series, key=lambda item: item.locate is None):
        try:
            image, notes = series.read()
            own = cut.kidneys
            if series.locate is not None:
                own, more = series.locate(image)
                notes += more
            drawn = {f"{kidney.side} kidney": kidney.labels for kidney in own if kidney.labels is not None}
            notes += check_tissue(drawn, image, series.where)
            # A mask that shows the lesions says more about the study than one that does not.
            better = draws_lesions(own) and not draws_lesions(cut.kidneys)
            cut.kidneys = _both(own, cut.kidneys) if better else _both(cut.kidneys, own)
        except DataError as error:
            reasons.add(str(error), damaged=True)
            continue
        for note in notes:
            reasons.add(note)
        if not own:
            reasons.add(f"{series.where}: no kidney mask or box belongs to it or to another series of its study.")
            continue
        placed, moved = in_place(own, cut.kidneys)
        for note in moved:
            reasons.add(f"{series.where}: {note}")
        volumes = _cut_series(study.study_id, series, image, placed, contract, reasons)
        if volumes:
            cut.volumes += volumes
            cut.own[series.series_id] = placed
            cut.rows.append(_series_row(study.study_id, series, image))
            drawn_apart += [series] if series.locate is not None else []
    _cut_again(study.study_id, drawn_apart, cut, contract, reasons)
    for note in _same_twice(cut.volumes):
        reasons.add(note)
    return cut


def _same_twice(volumes: Sequence[Volume]) -> list[str]:
    """Words on series of a study that show a kidney voxel by voxel alike: one scan, under two names or two phases."""
    first: dict[tuple[str, bytes], Volume] = {}
    pairs: dict[tuple[str, str], tuple[Volume, Volume]] = {}
    for volume in volumes:
        before = first.setdefault((volume.side, volume.image.tobytes()), volume)
        if before.series_id != volume.series_id:
            pairs[before.series_id, volume.series_id] = (before, volume)
    return [
        f"series {one.series_id} ({one.phase}) and {two.series_id} ({two.phase}) hold the same scan; leave "
        "one of them out."
        for one, two in pairs.values()
    ]


def _both(first: Sequence[LocatedKidney], second: Sequence[LocatedKidney]) -> list[LocatedKidney]:
    """The kidneys of a mask, and of another one those that it does not show; left first."""
    sides = {kidney.side for kidney in first}
    every = [*first, *(kidney for kidney in second if kidney.side not in sides)]
    return sorted(every, key=lambda kidney: kidney.side)


def _cut_again(
    study_id: str, series: Sequence[SeriesInput], cut: StudyCut, contract: PreprocessingContract, reasons: Reasons
) -> None:
    """Cut those series anew that were read before the mask that says most, and lie elsewhere by it."""
    for one in series:
        before = cut.own[one.series_id]
        placed, _ = in_place(before, cut.kidneys)
        if _centers(placed, contract) == _centers(before, contract):
            continue
        image, _ = one.read()
        rest = [volume for volume in cut.volumes if volume.series_id != one.series_id]
        cut.volumes = [*rest, *_cut_series(study_id, one, image, placed, contract, reasons)]


def _centers(kidneys: Sequence[LocatedKidney], contract: PreprocessingContract) -> dict[str, tuple[float, ...]]:
    return {kidney.side: region_center(kidney, kidneys, contract) for kidney in kidneys}


def _cut_series(
    study_id: str,
    series: SeriesInput,
    image: tio.ScalarImage,
    kidneys: Sequence[LocatedKidney],
    contract: PreprocessingContract,
    reasons: Reasons,
) -> list[Volume]:
    volumes = []
    for kidney in kidneys:
        if not _inside(kidney.center_ras_mm, image):
            reasons.add(f"{series.where}: the {kidney.side} kidney lies outside the scan.")
            continue
        array = crop_roi(image, region_center(kidney, kidneys, contract), contract)
        volumes.append(Volume(study_id, series.series_id, kidney.side, series.phase, array))
    return volumes


def region_center(
    kidney: LocatedKidney, kidneys: Sequence[LocatedKidney], contract: PreprocessingContract
) -> tuple[float, float, float]:
    """Centre of the region: for a whole abdomen the middle between the kidneys."""
    if contract.region != "abdomen":
        return kidney.center(contract.region)
    x, y, z = np.mean([other.center_ras_mm for other in kidneys], axis=0)
    return float(x), float(y), float(z)


def _inside(point: Sequence[float], image: tio.ScalarImage) -> bool:
    voxel = (np.linalg.inv(image.affine) @ np.append(point, 1.0))[:3]
    return bool((voxel >= -0.5).all() and (voxel <= np.array(image.spatial_shape) - 0.5).all())


def _series_row(study_id: str, series: SeriesInput, image: tio.ScalarImage) -> dict[str, Any]:
    width, height, depth = tio.ToCanonical()(image).spacing
    return {
        "study_id": study_id,
        "series_id": series.series_id,
        "phase": series.phase,
        "phase_evidence": series.phase_evidence,
        "intensity": "acquired",
        "spacing_d_mm": float(depth),
        "spacing_h_mm": float(height),
        "spacing_w_mm": float(width),
        "slice_thickness_mm": pd.NA if series.slice_thickness_mm is None else series.slice_thickness_mm,
    }
