"""The checks of `make data-check` that read volumes: whether every kidney has one, and whether it shows a scan."""

from __future__ import annotations

import numpy as np
import pandas as pd

from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError, Finding
from datamodules.volumes.shards import VolumeSet
from datamodules.volumes.volume_files import check_files


def named(values: list[str], shown: int = 3) -> str:
    """The first of some names, and how many more there are."""
    return ", ".join(values[:shown]) + (f" and {len(values) - shown} more" if len(values) > shown else "")


def check_volume_sets(cohort: Cohort, verify: bool, deep: bool) -> list[Finding]:
    """Every finding about the volume sets of a cohort.

    Args:
        cohort: The cohort.
        verify: Whether to read every volume and label map and compare their checksums.
        deep: Whether to read every byte of the shards, too.
    """
    folders = sorted(path for path in (cohort.root / "volumes").glob("*") if path.is_dir())
    if not folders:
        return [Finding("FAIL", "no volume set", "volumes", "at least one", "run `make cohort` or `make import` again")]
    findings: list[Finding] = []
    for folder in folders:
        try:
            volumes = VolumeSet(folder)
        except DataError as error:
            findings.append(Finding("FAIL", str(error).rstrip("."), folder.name))
            continue
        found = (
            _check_coverage(cohort, volumes)
            + _check_same_scans(cohort, volumes)
            + (_check_contents(volumes) if verify else [])
        )
        found += check_files(folder, content=verify, shards=deep)
        if not any(finding.level == "FAIL" for finding in found):
            told = f"{len(volumes)} volumes{' with right checksums' if verify else ''}"
            found.append(Finding("PASS", f"{told}{', every byte read' if deep else ''}", folder.name))
        findings += found
    return findings


def _check_coverage(cohort: Cohort, volumes: VolumeSet) -> list[Finding]:
    kidneys = cohort["kidneys"]
    index = kidneys[kidneys["is_index"]]
    keys = ["patient_id", "study_id", "side"]
    missing = index.merge(volumes.index[keys].drop_duplicates(), on=keys, how="left", indicator=True)
    lost = sorted(missing.loc[missing["_merge"] == "left_only", "patient_id"].unique())
    findings = []
    if lost:
        findings.append(
            Finding(
                "FAIL",
                f"{len(lost)} patients have no volume of their index kidney ({named(lost)})",
                volumes.folder.name,
                "one per phase",
                "import them again",
            )
        )
    known = pd.MultiIndex.from_frame(cohort["series"][["patient_id", "study_id", "series_id"]])
    found = pd.MultiIndex.from_frame(volumes.index[["patient_id", "study_id", "series_id"]])
    strange = sorted({str(values[0]) for values in found[~found.isin(known)]})
    if strange:
        findings.append(
            Finding(
                "FAIL",
                f"volumes of series that series.parquet does not list ({named(strange)})",
                volumes.folder.name,
                "a row each",
                "import the cohort again",
            )
        )
    return findings


def _check_same_scans(cohort: Cohort, volumes: VolumeSet) -> list[Finding]:
    """One scan under the identifiers of two patients: a leak where they are in two splits or roles."""
    owners = volumes.index[["crc32", "patient_id"]].drop_duplicates()
    shared = owners[owners.duplicated("crc32", keep=False)]
    if shared.empty:
        return []
    parts = cohort.patients()[["patient_id", "role", "split", "fold"]].astype("string").fillna("")
    joined = shared.merge(parts, on="patient_id")
    apart = joined.groupby("crc32")[["role", "split", "fold"]].nunique().max(axis=1)
    findings = []
    for level, scans, where in (
        ("FAIL", apart.index[apart > 1], "in two splits, folds or roles"),
        ("WARN", apart.index[apart <= 1], "in one split and role"),
    ):
        patients = sorted(map(str, joined.loc[joined["crc32"].isin(scans), "patient_id"].unique()))
        if patients:
            findings.append(
                Finding(
                    "FAIL" if level == "FAIL" else "WARN",
                    f"{len(scans)} volumes are those of two patients {where} ({named(patients)})",
                    volumes.folder.name,
                    "a scan of one patient each",
                    "find out who it is and leave the other out",
                )
            )
    return findings


def _check_contents(volumes: VolumeSet) -> list[Finding]:
    findings = []
    for position, row in enumerate(volumes.index.itertuples(index=False)):
        try:
            image = volumes.read(position)
        except DataError as error:
            findings.append(Finding("FAIL", str(error).rstrip("."), f"{row.patient_id}, {row.side}, {row.phase}"))
            continue
        if image.min() == image.max():
            findings.append(
                Finding(
                    "FAIL",
                    f"every voxel is {image.flat[0]} HU",
                    f"{row.patient_id}, {row.side}, {row.phase}",
                    "a scan",
                    "import the patient again",
                )
            )
        elif np.mean(image <= volumes.contract.pad_hu) > 0.9:
            findings.append(
                Finding(
                    "WARN",
                    "more than 90 % of the voxels are padding",
                    f"{row.patient_id}, {row.side}, {row.phase}",
                    "a kidney in the box",
                    "check the kidney mask",
                )
            )
    return findings
