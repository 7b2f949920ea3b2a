"""The quality of a cohort's volumes in figures: HU, padding, cuts and spacing by centre and phase, and what stands out.

What a reader of scans would notice at a glance and a checksum never will: a centre whose rescale was left out, a scan
that ends in the middle of the kidney, a phase whose kidneys do not enhance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from datamodules.anatomy.tissues import Tissue
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.columns import PHASES
from datamodules.cohort.keyed_order import keyed_units
from datamodules.errors import DataError
from datamodules.volumes.shards import VolumeSet

Progress = Callable[[int, int], None]

ALL_PHASES = "all"
"""Phase of the row that sums up a centre."""
KIDNEY_HU = {"non_contrast": (0, 80), "arterial": (50, 300), "venous": (70, 300), "delayed": (50, 300)}
"""Median HU of the parenchyma that a centre can have in a phase: 20 to 45 unenhanced, 80 to 220 enhanced, with room."""

_LOW, _HIGH = -2048, 4095  # HU that the histograms tell apart
_AIR_HU = -850  # below lung and bowel wall
_CONSTANT_SD_HU = 5.0  # the noise of any scanner is more
_PADDED = 0.5  # share of padding from which a group is flagged
_SHIFT_HU = 150.0  # medians of centres differ by less, whatever the share of fat
_BODY_HU = 400  # fat, soft tissue and enhanced vessels lie within +-
_MIRROR_MARGIN = 0.2  # of a correlation
_SPACING = {
    "spacing_d_mm": "spacing_d",
    "spacing_h_mm": "spacing_h",
    "spacing_w_mm": "spacing_w",
    "slice_thickness_mm": "slice_thickness",
}


@dataclass
class Intensities:
    """What was counted in the volumes of one centre and phase.

    Args:
        histogram: Number of voxels by whole HU from -2048 to 4095, without padding; the end bins hold what lies beyond.
        volumes: Volumes read.
        voxels: Voxels read.
        padding: Voxels at the padding value of the contract. Air that a scanner stores as that value counts as well.
        air: Voxels below -850 HU that are no padding.
        cut: Volumes of which a whole face is padding, as the scan ends before the box does.
        constant: Volumes that are nearly one value, or nearly all padding.
        unreadable: Volumes that are damaged.
        kidney_hu: Median HU of the parenchyma of each volume that has a mask.
    """

    histogram: np.ndarray = field(default_factory=lambda: np.zeros(_HIGH - _LOW + 1, dtype=np.int64))
    volumes: int = 0
    voxels: int = 0
    padding: int = 0
    air: int = 0
    cut: int = 0
    constant: int = 0
    unreadable: int = 0
    kidney_hu: list[float] = field(default_factory=list)

    def add(self, image: np.ndarray, labels: np.ndarray | None, pad_hu: int) -> None:
        """Count one volume.

        Args:
            image: int16 [D, H, W] in HU.
            labels: uint8 [D, H, W] of `Tissue`, where known.
            pad_hu: Padding value.
        """
        padded = image == pad_hu
        inside = image[~padded]
        self.histogram += np.bincount(np.clip(inside, _LOW, _HIGH).astype(np.int64) - _LOW, minlength=_HIGH - _LOW + 1)
        self.volumes += 1
        self.voxels += image.size
        self.padding += image.size - inside.size
        self.air += int((inside < _AIR_HU).sum())
        faces = [padded.take(end, axis).all() for axis in range(3) for end in (0, -1)]
        self.cut += bool(any(faces))
        self.constant += bool(inside.size < 0.01 * image.size or inside.std() < _CONSTANT_SD_HU)
        kidney = image[labels == Tissue.KIDNEY] if labels is not None else image[:0]
        if kidney.size:
            self.kidney_hu.append(float(np.median(kidney)))

    def percentile(self, percent: float) -> float | None:
        """HU below which that part of the voxels lies, padding left out; None where nothing was read."""
        total = int(self.histogram.sum())
        if not total:
            return None
        return float(np.searchsorted(self.histogram.cumsum(), percent / 100 * total) + _LOW)

    def densities(self, edges: np.ndarray) -> np.ndarray:
        """Share of the voxels between neighbouring `edges` (whole HU), padding left out."""
        below = np.concatenate([[0], self.histogram.cumsum()])[np.clip(edges.astype(int) - _LOW, 0, _HIGH - _LOW + 1)]
        return np.diff(below) / max(int(self.histogram.sum()), 1)


def joined(parts: Sequence[Intensities]) -> Intensities:
    """The counts of several groups as one."""
    total = Intensities()
    for part in parts:
        for name, value in vars(part).items():
            setattr(total, name, getattr(total, name) + value)
    return total


@dataclass(frozen=True)
class Quality:
    """What `measure` found.

    Args:
        table: One row per centre and phase, and one per centre with the phase `all`; lengths in mm, shares in [0, 1].
        intensities: Counts by centre and phase.
        listed: Volumes in the set.
        read: Volumes of them that were read.
        per_group: Most volumes read of a centre and phase.
    """

    table: pd.DataFrame
    intensities: dict[tuple[str, str], Intensities]
    listed: int
    read: int
    per_group: int

    @property
    def extent(self) -> str:
        """In words, what part of the volumes the figures are from."""
        if self.read == self.listed:
            return f"all {self.listed:,} volumes"
        return f"{self.read:,} of {self.listed:,} volumes, at most {self.per_group} a centre and phase"

    def flags(self, center: str) -> list[str]:
        """What stands out at a centre, with the phase before it where it is one of several."""
        rows = self.table[(self.table["center"] == center) & (self.table["flags"] != "")]
        several = (self.table["center"] == center).sum() > 2
        return [
            f"{phase.replace('_', '-')}: {flag}" if several and phase != ALL_PHASES else flag
            for phase, flags in zip(rows["phase"], rows["flags"], strict=True)
            for flag in flags.split("; ")
        ]


def measure(
    cohort: Cohort, volumes: VolumeSet, per_group: int = 100, seed: int = 42, progress: Progress | None = None
) -> Quality:
    """Read the volumes of a cohort and describe them by centre and phase.

    Args:
        cohort: The cohort.
        volumes: One of its volume sets.
        per_group: Most volumes to read of a centre and phase, drawn with `seed`; small centres are read whole.
        seed: Seed of that draw.
        progress: Called with (volumes done, volumes to read).

    Raises:
        DataError: if no volume belongs to a patient of the cohort.
    """
    index = volumes.index.merge(cohort.patients()[["patient_id", "center"]], on="patient_id")
    if index.empty:
        raise DataError(
            f"No volume of {volumes.folder.name} belongs to a patient of cohort {cohort.info.name}; run "
            "`make data-check`."
        )
    keys = index[["patient_id", "study_id", "series_id", "side"]].itertuples(index=False, name=None)
    index["drawn"] = keyed_units(keys, seed, "quality")
    drawn = index.sort_values("drawn").groupby(["center", "phase"]).head(per_group).sort_values("position")
    groups = _read(volumes, drawn, progress)
    return Quality(_table(cohort, index, groups), groups, len(index), len(drawn), per_group)


def _read(volumes: VolumeSet, drawn: pd.DataFrame, progress: Progress | None) -> dict[tuple[str, str], Intensities]:
    groups: dict[tuple[str, str], Intensities] = {}
    masks: dict[tuple[str, str], np.ndarray] = {}
    patient = None
    for done, row in enumerate(drawn.to_dict("records"), start=1):
        group = groups.setdefault((row["center"], row["phase"]), Intensities())
        if row["patient_id"] != patient:
            patient, masks = row["patient_id"], volumes.masks(row["patient_id"])
        try:
            image = volumes.read(row["position"])
        except DataError:
            group.unreadable += 1
        else:
            group.add(image, masks.get((row["study_id"], row["side"])), volumes.contract.pad_hu)
        if progress is not None:
            progress(done, len(drawn))
    return groups


def _table(cohort: Cohort, index: pd.DataFrame, groups: Mapping[tuple[str, str], Intensities]) -> pd.DataFrame:
    patients = cohort.patients()
    series = cohort["series"].merge(patients[["patient_id", "center"]], on="patient_id")
    rows = []
    for center, role in cohort["centers"][["center", "role"]].itertuples(index=False):
        of_center, own_series = index[index["center"] == center], series[series["center"] == center]
        phases = [phase for phase in PHASES if (center, phase) in groups]
        for phase in [*phases, ALL_PHASES]:
            one = phase != ALL_PHASES
            found = groups[center, phase] if one else joined([groups[center, each] for each in phases])
            flags = _flags(center, phase, groups) if one else _without(patients, of_center, center)
            listed = of_center[of_center["phase"] == phase] if one else of_center
            spacing = _spacing(own_series[own_series["phase"] == phase] if one else own_series)
            row = {"center": center, "role": role, "phase": phase} | _counts(listed) | _figures(found, one)
            rows.append(row | spacing | {"flags": "; ".join(flags)})
    return pd.DataFrame(rows).convert_dtypes()


def _counts(listed: pd.DataFrame) -> dict[str, int]:
    return {
        "patients": listed["patient_id"].nunique(),
        "kidneys": len(listed.drop_duplicates(["patient_id", "study_id", "side"])),
        "volumes": len(listed),
    }


def _figures(found: Intensities, one_phase: bool) -> dict[str, Any]:
    voxels, volumes = max(found.voxels, 1), max(found.volumes, 1)
    known = found.kidney_hu if one_phase else []
    return {
        "volumes_read": found.volumes,
        "hu_p1": found.percentile(1),
        "hu_p50": found.percentile(50),
        "hu_p99": found.percentile(99),
        "kidney_hu_median": float(np.median(known)) if known else None,
        "padding_share": round(found.padding / voxels, 4),
        "air_share": round(found.air / voxels, 4),
        "cut_share": round(found.cut / volumes, 4),
        "constant": found.constant,
        "unreadable": found.unreadable,
    }


def _spacing(series: pd.DataFrame) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for column, name in _SPACING.items():
        known = series[column].dropna().astype(float)
        for statistic in ("min", "median", "max"):
            value = None if known.empty else round(float(getattr(known, statistic)()), 3)
            found[f"{name}_{statistic}_mm"] = value
    return found


def _without(patients: pd.DataFrame, listed: pd.DataFrame, center: str) -> list[str]:
    lost = set(patients.loc[patients["center"] == center, "patient_id"]) - set(listed["patient_id"])
    return [f"{len(lost)} patients without a volume"] if lost else []


def _flags(center: str, phase: str, groups: Mapping[tuple[str, str], Intensities]) -> list[str]:
    """What stands out in one centre and phase, as short phrases that hold the figure and what was expected."""
    own = groups[center, phase]
    flags = [f"{own.unreadable} damaged volumes"] if own.unreadable else []
    lowest, middle = own.percentile(1), own.percentile(50)
    if own.volumes and own.padding > _PADDED * own.voxels:
        flags.append(f"{own.padding / own.voxels:.0%} padding")
    if own.constant:
        flags.append(f"{own.constant} volumes nearly constant")
    if lowest is None or middle is None:
        return flags
    if lowest >= 0:
        flags.append(f"no fat, 1st percentile {lowest:.0f} HU: unscaled?")
    others = [part for (other, each), part in groups.items() if each == phase and other != center and part.volumes]
    medians = [median for part in others if (median := part.percentile(50)) is not None]
    if len(medians) > 1 and abs(middle - float(np.median(medians))) > _SHIFT_HU:
        flags.append(f"median {middle:.0f} HU, elsewhere {np.median(medians):.0f}: shifted?")
    if others and _mirrored(own, joined(others)):
        flags.append("mirrored histogram fits better: inverted?")
    low, high = KIDNEY_HU[phase]
    kidney = float(np.median(own.kidney_hu)) if own.kidney_hu else None
    if kidney is not None and not low <= kidney <= high:
        flags.append(f"kidney {kidney:.0f} HU, expected {low} to {high}")
    return flags


def _mirrored(own: Intensities, reference: Intensities) -> bool:
    """Whether a histogram is more like the mirror image of the reference, in the range of the body."""
    edges = np.arange(-_BODY_HU, _BODY_HU + 1, 20)
    mine, theirs = own.densities(edges), reference.densities(edges)
    if min(mine.sum(), theirs.sum()) < 0.5 or min(np.ptp(mine), np.ptp(theirs)) == 0:
        return False
    straight, mirrored = np.corrcoef([mine, theirs, theirs[::-1]])[0, 1:]
    return bool(mirrored > straight + _MIRROR_MARGIN)
