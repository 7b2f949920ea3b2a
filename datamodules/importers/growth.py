"""A finished cohort that changes: who left is removed without a trace, and what depends on others is mended."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.errors import DataError
from datamodules.files import read_json_mapping, read_parquet
from datamodules.importers.records import GrowingSource
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.shards import finish_volume_set, shard_name

BUILD = ".build"
_NAMING = ("data-check.json", "qc.csv", "qc.png", "reports-redacted.parquet")
"""What commands leave beside the tables, about single patients or drawn from them."""


def stored_entry(path: Path) -> dict[str, Any] | None:
    """What a build left of a patient; None where there is nothing, or it is damaged, so that it is done again."""
    try:
        return read_json_mapping(path, "patient_id", "status", "reason") if path.is_file() else None
    except DataError:
        return None


def refreshed(source: GrowingSource, entry: dict[str, Any]) -> dict[str, Any]:
    """The entry of a finished patient with the rows that the source's tables give today; its volumes stay.

    Raises:
        DataError: if a row is refused, naming the patient.
    """
    if entry.get("cut") is None:
        return entry
    patient = entry["patient_id"]
    try:
        rows, notes = source.refreshed(patient, entry["cut"])
    except DataError as error:
        raise DataError(f"{patient}: {error}") from error
    return {**entry, "rows": rows, "reason": " ".join([*entry.get("notes", ()), *notes])}


def remove_others(root: Path, patients: Collection[str]) -> list[str]:
    """Remove from every volume set of a cohort who is not among its patients, entries, volumes and label maps.

    What commands found in the cohort goes with them: findings, figures and cleaned reports of those who were there.

    Args:
        root: Folder of the cohort.
        patients: Who stays, entries of the import report that are no patients among them.

    Returns:
        Who was removed, each once.
    """
    stay = {shard_name(patient) for patient in patients}
    removed: dict[str, None] = {}
    for path in sorted((root / BUILD).glob("*/*.json")):
        if path.stem in stay or path.name == "source.json":
            continue
        entry = stored_entry(path) or {"status": ""}  # damaged: the patient has left all the same
        volumes = root / "volumes" / path.parent.name
        for name in (f"shards/{path.stem}.bin", f"masks/{path.stem}.npz"):
            (volumes / name).unlink(missing_ok=True)
        path.unlink()
        if entry["status"] == "imported":
            removed[str(entry["patient_id"])] = None
    for name in _NAMING if removed else ():
        (root / name).unlink(missing_ok=True)
    return list(removed)


def mend_other_sets(root: Path, written: Path, imported: Sequence[dict[str, Any]]) -> list[str]:
    """Bring the further volume sets of a cohort to its present patients.

    A set of which every patient's volumes are those of today is indexed anew; one that lacks some is no longer a
    finished set, until the import is run again under its profile.

    Args:
        root: Folder of the cohort.
        written: Folder of the set that was just written.
        imported: Entries of the present patients, with the print of what they were read from.

    Returns:
        Names of the sets that must be written again.
    """
    stale = []
    for path in sorted((root / "volumes").glob("*/contract.json")):
        folder = path.parent
        entries_folder = root / BUILD / folder.name
        if folder == written or not entries_folder.is_dir():
            continue
        entries = []
        for entry in imported:
            own = entries_folder / f"{shard_name(entry['patient_id'])}.json"
            found = stored_entry(own) or {}
            if found.get("print") == entry.get("print") and found.get("volumes"):
                entries.append(found["volumes"])
        if len(entries) == len(imported):
            finish_volume_set(folder, PreprocessingContract.from_dict(read_json_mapping(path)), entries)
        else:
            path.unlink()
            stale.append(folder.name)
    return stale


def drop_derived(root: Path, reports: pd.DataFrame | None) -> bool:
    """Remove what was read out of reports, where these are no longer the cohort's: attributes, their evidence, answers.

    Args:
        root: Folder of the cohort.
        reports: Reports of the present patients; None where there are none.

    Returns:
        Whether there was anything to remove.
    """
    path = root / "reports.parquet"
    derived = [path for path in (root / "attributes.parquet", root / "attributes") if path.exists()]
    if not path.is_file() or not derived:
        return False
    before = set(read_parquet(path)[0][["report_id", "text"]].itertuples(index=False, name=None))
    now = set() if reports is None else set(reports[["report_id", "text"]].itertuples(index=False, name=None))
    if before == now:
        return False
    for one in derived:
        if one.is_dir():
            shutil.rmtree(one)
        else:
            one.unlink()
    return True
