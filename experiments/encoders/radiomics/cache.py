"""Radiomics of many volumes: measured once, in processes, kept in one file that an interrupted command goes on with."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datamodules.engine import Lost, Needs, default_workers, open_pool
from datamodules.errors import DataError
from datamodules.files import read_parquet, write_parquet
from datamodules.volumes.shards import VolumeSet
from experiments.encoders.radiomics.extract import (
    check_library,
    lesion_mask,
    mask_features,
    measurable,
    organ_mask,
    quiet_library,
    shape_features,
)
from experiments.runs.baseline import RadiomicsSettings
from experiments.runs.console import counted, say

_KEEP_SECONDS = 30
_NOTE = "note"


@dataclass(frozen=True)
class Visit:
    """The series of one kidney in one study, which share their masks.

    Args:
        patient_id: Patient.
        study_id: Examination.
        side: left or right.
        positions: Positions of its volumes.
    """

    patient_id: str
    study_id: str
    side: str
    positions: tuple[int, ...]


def cache_file(folder: Path, volumes: VolumeSet, settings: RadiomicsSettings) -> Path:
    """One file for each set of volumes and masks, and settings; other scans at the same places are others."""
    patients = sorted(set(volumes.index["patient_id"].astype(str)))
    masks = [f"{patient} {sorted(volumes.mask_checksums(patient).items())}" for patient in patients]
    told_apart = "\n".join([volumes.contract.stored.hash, volumes.index.to_csv(index=False), *masks])
    return folder / f"radiomics-{settings.hash}-{hashlib.sha256(told_apart.encode()).hexdigest()[:12]}.parquet"


def folder_of_masks(volumes: VolumeSet) -> Path:
    """Where a volume set keeps its label maps."""
    return volumes.folder / "masks"


def radiomics_table(
    volumes: VolumeSet,
    positions: Sequence[int],
    folder: Path,
    settings: RadiomicsSettings,
    workers: int | None = None,
) -> pd.DataFrame:
    """Features of volumes; those measured before are read, the others are measured and kept.

    Args:
        volumes: Volume set with masks.
        positions: Positions of volumes, in any order, repeats allowed.
        folder: Folder of cached features.
        settings: What is measured.
        workers: Processes; all cores by default.

    Returns:
        One row per position asked for, in that order: `<mask>:<feature>` float64, NaN where a mask is absent or too
        small, or a feature is not defined.

    Raises:
        DataError: if the volume set has no masks, or a volume is damaged.
    """
    path = cache_file(folder, volumes, settings)
    known = _read(path)
    wanted = np.unique(np.asarray(positions, dtype=np.int64))
    missing = wanted[~np.isin(wanted, known.index.to_numpy(dtype=np.int64))]
    if len(missing):
        visits = _visits(volumes, missing)
        check_masks(volumes)
        known = _measure(volumes, visits, path, settings, default_workers() if workers is None else workers)
    asked = known.loc[np.asarray(positions, dtype=np.int64)]
    notes = asked.loc[~asked.index.duplicated(), _NOTE]
    told = notes[notes != ""]
    if len(told):
        say(f"{len(told)} of {len(notes)} volumes are not measured in full, the first: {told.iloc[0]}")
    return asked.drop(columns=_NOTE).astype(np.float64)


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        return pd.DataFrame({_NOTE: []}, index=pd.Index([], dtype=np.int64))
    frame = read_parquet(path)[0].set_index("position")
    frame.index = frame.index.astype(np.int64)
    return frame.assign(note=frame[_NOTE].astype(object))


def _visits(volumes: VolumeSet, positions: np.ndarray) -> list[Visit]:
    rows = volumes.index[volumes.index["position"].isin(positions)]
    groups = rows.groupby(["patient_id", "study_id", "side"], sort=True)["position"]
    return [
        Visit(str(patient), str(study), str(side), tuple(int(value) for value in found))
        for (patient, study, side), found in groups
    ]


def check_masks(volumes: VolumeSet) -> None:
    """Refuse a volume set without masks, or a machine without mirp, before anything is measured.

    Raises:
        DataError: if it holds none, or mirp is not installed.
    """
    check_library()
    if not any(folder_of_masks(volumes).glob("*.npz")):
        raise DataError(
            f"Volume set {volumes.folder.name} holds no masks, inside which radiomics are measured. "
            "Import the cohort with its masks, or choose another encoder."
        )


def _measure(
    volumes: VolumeSet, visits: Sequence[Visit], path: Path, settings: RadiomicsSettings, workers: int
) -> pd.DataFrame:
    """Measure visits and keep what is done every half minute, also when it is interrupted."""
    count = sum(len(visit.positions) for visit in visits)
    say(f"Measuring radiomics of {count} volumes, which are kept for every task and seed.")
    started, kept, rows, lost = time.monotonic(), time.monotonic(), [], list[str]()
    try:
        opened = open_pool(partial(_work, volumes, settings), workers, Needs(one_thread=True))
        with opened as pool, counted("kidneys") as show:
            for done, (visit, found) in enumerate(pool.run(visits), start=1):
                if isinstance(found, Lost):
                    lost.append(f"{visit.patient_id}, {visit.study_id}, {visit.side}: {found.sentence}")
                else:
                    rows += found
                show(done, len(visits))
                if rows and time.monotonic() - kept > _KEEP_SECONDS:
                    _keep(path, rows)
                    kept, rows = time.monotonic(), []
    finally:
        if rows:
            _keep(path, rows)
    if lost:
        raise DataError(
            f"Radiomics of {len(lost)} of {len(visits)} kidneys could not be measured, the first: {lost[0]}. The "
            "others are kept; the same command measures these again."
        )
    seconds = time.monotonic() - started
    say(f"Radiomics of {count} volumes took {seconds:.0f} s, {seconds / count:.2f} s a volume, {workers} processes.")
    return _read(path)


def _keep(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows to the file as it is now, since another process may have added some as well."""
    frame = pd.DataFrame(rows).set_index("position")
    known = _read(path)
    known = frame if known.empty else pd.concat([known[~known.index.isin(frame.index)], frame])
    write_parquet(path, known.sort_index().reset_index())


def _work(volumes: VolumeSet, settings: RadiomicsSettings, visit: Visit) -> list[dict[str, Any]]:
    with quiet_library():
        return visit_features(volumes, visit, settings)


def visit_features(volumes: VolumeSet, visit: Visit, settings: RadiomicsSettings) -> list[dict[str, Any]]:
    """Features of the series of one kidney; call it within `quiet_library`.

    Shape is measured once, since the series share their masks.

    Returns:
        One row per series: position, note (what was not measured, and why), and the features that could be.
    """
    labels = volumes.masks(visit.patient_id).get((visit.study_id, visit.side))
    where = f"{visit.patient_id}, {visit.study_id}, {visit.side}"
    if labels is None:
        return [{"position": position, _NOTE: f"{where}: no mask"} for position in visit.positions]
    spacing = volumes.contract.spacing_mm
    regions = {"lesion": lesion_mask(labels, spacing), "kidney": organ_mask(labels)}
    shapes: dict[str, dict[str, float]] = {}
    rows = []
    for position in visit.positions:
        image = volumes.read(position)
        row: dict[str, Any] = {"position": position, _NOTE: ""}
        for name, families in settings.masks.items():
            mask = regions[name]
            if not measurable(image, mask, spacing, settings):
                row[_NOTE] = f"{where}: {name} is absent or smaller than {settings.least_voxels} voxels"
                continue
            if "morphology" in families and name not in shapes:
                shapes[name] = shape_features(mask, spacing, settings)
            textures = [family for family in families if family != "morphology"]
            found = mask_features(image, mask, spacing, textures, settings) if textures else {}
            row |= {f"{name}:{feature}": value for feature, value in {**shapes.get(name, {}), **found}.items()}
        rows.append(row)
    return rows
