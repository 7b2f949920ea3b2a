"""From the headers of one study to its series: what can be read, with its phase and what shows the kidneys."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torchio as tio

from datamodules.errors import DataError
from datamodules.importers.boxes import Boxes
from datamodules.importers.cut_study import Located, Reasons, SeriesInput
from datamodules.importers.dicom.contours import Contours, is_structure_set, read_contours
from datamodules.importers.dicom.pixels import read_stack, same_pixels
from datamodules.importers.dicom.segmentation import Segmentation, is_segmentation, read_seg
from datamodules.importers.dicom.series import split_series
from datamodules.importers.dicom.slice_header import SliceHeader
from datamodules.importers.dicom.slice_refusals import TRUNCATED, fault, refusal
from datamodules.importers.dicom.stack_geometry import Stack, step_mm
from datamodules.importers.locate import locate_box, locate_kidneys
from datamodules.importers.mask_grids import fit, merge
from datamodules.importers.masks import find_segmentation, read_segmentation
from datamodules.importers.phases import PhaseRule, guess_phase, ruled_phase
from datamodules.importers.pseudonyms import Naming


@dataclass(frozen=True)
class StudyReader:
    """What makes series of the headers of a study.

    Args:
        folder: Folder of DICOM files.
        naming: Gives series their identifiers in the cohort.
        rules: Contrast phases that overrule what the headers say.
        boxes: Boxes of kidneys by SeriesInstanceUID.
        masks: Folder with one segmentation per series.
        labels: Meaning of the codes of a label map in `masks`.
        minimum_slices: Least number of slices of a volume.
        burned_in: Take images whose headers say that text is burned into their pixels.
    """

    folder: Path
    naming: Naming
    rules: Sequence[PhaseRule]
    boxes: Boxes
    masks: Path | None
    labels: str | Mapping[int, str]
    minimum_slices: int
    burned_in: bool

    def series(
        self, headers: Sequence[SliceHeader], names: Sequence[str], reasons: Reasons, used: dict[str, set[str]]
    ) -> list[SeriesInput]:
        """The usable series of one study.

        Args:
            headers: All of the study.
            names: What its masks may be called.
            reasons: Where the others go.
            used: Where the files of each are added, under its identifier in the cohort.
        """
        stacks: list[Stack] = []
        for uid in sorted({header.series_uid for header in headers if not _is_drawing(header)}):
            where = f"series {self.naming.series(uid)}"
            own = [header for header in headers if header.series_uid == uid and not _is_drawing(header)]
            slices = _usable(own, where, reasons, burned_in=self.burned_in)
            if slices:
                found = split_series(slices, functools.partial(same_pixels, root=self.folder))
                if slices[0].unnamed:
                    reasons.add(f"{where}: {len(slices)} files name no series and were put together by their folder.")
                if len(found) > 1:
                    reasons.add(f"{where}: {len(found)} stacks in one series were read apart.")
                stacks += found
        drawings = self._drawings(headers, stacks, reasons, used)
        inputs = [self._input(stack, names, drawings, reasons) for stack in stacks]
        for series, stack in zip(inputs, stacks, strict=True):
            if series is not None:
                used.setdefault(series.series_id, set()).update(header.path for header in stack.slices)
        return [series for series in inputs if series is not None]

    def _drawings(
        self, headers: Sequence[SliceHeader], stacks: Sequence[Stack], reasons: Reasons, used: dict[str, set[str]]
    ) -> list[Segmentation | Contours]:
        """What SEG and RTSTRUCT objects of a study show of the kidneys."""
        steps: dict[str, float] = {}
        for stack in stacks:
            first = stack.slices[0]
            steps |= {first.frame_of_reference: step_mm(stack), first.series_uid: step_mm(stack)}
        found: list[Segmentation | Contours] = []
        for header in headers:
            path, name = self.folder / header.path, self.naming.series(header.series_uid)
            try:
                if is_segmentation(header):
                    drawing: Segmentation | Contours | None = read_seg(path, f"segmentation {name}", steps)
                elif is_structure_set(header):
                    drawing = read_contours(path, f"structure set {name}")
                else:
                    continue
            except DataError as error:
                reasons.add(str(error), damaged=True)
                continue
            if drawing is None:
                reasons.add(f"{header.modality} {name}: it names no kidney and no lesion of one; left out.")
            else:
                used.setdefault("", set()).add(header.path)
                found.append(drawing)
        return found

    def _input(
        self, stack: Stack, names: Sequence[str], drawings: Sequence[Segmentation | Contours], reasons: Reasons
    ) -> SeriesInput | None:
        first = stack.slices[0]
        series_id = self.naming.series(stack.series_uid) + ("" if stack.count == 1 else f"-{stack.number}")
        where = f"series {series_id}"
        guess = ruled_phase(self.rules, stack.series_uid, stack.number, first.description) or guess_phase(
            first.description, first.protocol, first.delay_s
        )
        if guess.phase is None:
            reasons.add(f"{where}: the contrast phase is unknown ({guess.evidence}); state it in the phases table.")
            return None
        own = _drawn_on(first, drawings)
        exact = (stack.name, stack.series_uid, series_id)
        file = None if self.masks is None else find_segmentation(self.masks, [*exact, *names])
        boxes = self.boxes.get(stack.series_uid, ())
        locate = functools.partial(self._locate, where, own, file, boxes)
        return SeriesInput(
            series_id=series_id,
            where=where,
            phase=guess.phase,
            phase_evidence=guess.evidence,
            read=functools.partial(read_stack, stack, self.folder, where, self.minimum_slices),
            locate=locate if own or file is not None or boxes else None,
            slice_thickness_mm=first.thickness_mm,
        )

    def _locate(
        self,
        where: str,
        drawings: Sequence[Segmentation | Contours],
        file: Path | None,
        boxes: Sequence[tuple[str, tuple[float, ...]]],
        image: tio.ScalarImage,
    ) -> Located:
        """The kidneys of one series: its SEG and RTSTRUCT first, then a segmentation program's mask, then its boxes."""
        if drawings:
            mask = fit(merge([one.on(image, where) for one in drawings], where), image, where, exact_geometry=True)
        elif file is not None:
            mask = fit(read_segmentation(file, f"{where}, segmentation", self.labels), image, where)
        else:
            return [locate_box(side, box, image, voxels=False) for side, box in boxes], []
        kidneys, notes = locate_kidneys(mask, image, where)
        return kidneys, [*mask.notes, *notes]


def _usable(headers: Sequence[SliceHeader], where: str, reasons: Reasons, *, burned_in: bool) -> list[SliceHeader]:
    """The slices of one series that can be part of a CT volume; how many others there are is kept as a reason.

    A volume never comes from part of its slices: where one of them cannot be used, none is.
    """
    found = [refusal(header, burned_in=burned_in) for header in headers]
    for reason, count in Counter(filter(None, found)).items():
        text = f"{where}: {count} of {len(headers)} objects are {reason}; left out."
        reasons.add(text, damaged=reason == TRUNCATED)
    kept = [header for header, reason in zip(headers, found, strict=True) if reason is None]
    lost = sum(reason is not None and reason == fault(header) for header, reason in zip(headers, found, strict=True))
    if kept and lost:
        reasons.add(
            f"{where}: {lost} of its slices cannot be used, so that the other {len(kept)} are no whole volume; all "
            "were left out. Export the series again.",
            damaged=True,
        )
        return []
    return kept


def _is_drawing(header: SliceHeader) -> bool:
    return is_segmentation(header) or is_structure_set(header)


def _drawn_on(header: SliceHeader, drawings: Sequence[Segmentation | Contours]) -> list[Segmentation | Contours]:
    """All objects that name the series, or else those that name none and share its coordinate system."""
    named = [one for one in drawings if header.series_uid in one.series_uids]
    return named or [
        one
        for one in drawings
        if not one.series_uids and one.frame_of_reference and one.frame_of_reference == header.frame_of_reference
    ]
