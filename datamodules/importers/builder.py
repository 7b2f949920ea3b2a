"""Building a cohort from a source: in parallel, resumable, every patient accounted for."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.tables import TABLES
from datamodules.engine import default_workers
from datamodules.errors import DataError
from datamodules.files import read_json_mapping, read_parquet, write_json, write_parquet
from datamodules.importers.growth import BUILD, drop_derived, mend_other_sets, refreshed, remove_others, stored_entry
from datamodules.importers.patient_jobs import PatientJob, run_jobs
from datamodules.importers.records import GrowingSource, Source
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.shards import VolumeSet, checksum, finish_volume_set, shard_name, volume_folder
from datamodules.volumes.volume_files import is_whole

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ImportAccount:
    """What became of every patient.

    Args:
        rows: Columns patient_id, status (imported, skipped, failed) and reason.
        read: How many of them were read now; the others were kept.
        removed: Who was imported before and is no longer in the source.
        mend: What must be made again, in words.
    """

    rows: pd.DataFrame
    read: int = 0
    removed: tuple[str, ...] = ()
    mend: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Number of patients by status."""
        tally = Counter(self.rows["status"])
        return {status: tally.get(status, 0) for status in ("imported", "skipped", "failed")}


def build_cohort(
    source: Source,
    root: Path,
    contract: PreprocessingContract,
    workers: int | None = None,
    progress: Progress | None = None,
) -> tuple[Cohort, ImportAccount]:
    """Read or generate every patient of a source and write the cohort.

    Patients that an interrupted build finished are kept as long as the source's fingerprint is unchanged; the cohort
    can be loaded only after the last file, `cohort.json`, is written. The same source under another contract adds a
    volume set to the cohort.

    Args:
        source: Importer or generator.
        root: Folder of the cohort.
        contract: Preprocessing contract of the volume set to write.
        workers: Processes; all cores by default.
        progress: Called with (patients done, patients in all).

    Returns:
        The cohort as it can be loaded, and what became of every patient; also in `import.parquet`.

    Raises:
        DataError: if the folder holds another cohort, no patient could be imported, or the disk is full.
    """
    patients = source.patient_ids()
    state = _State(root, contract, source)
    read = _work_off(source, state, patients, contract, workers, progress)
    return _assemble(source, state, patients, contract, read)


def refresh_cohort(source: Source, root: Path, contract: PreprocessingContract) -> tuple[Cohort, ImportAccount]:
    """Write the tables of a finished cohort anew, as those of its source are today; no scan is read.

    Args:
        source: What the cohort was imported from.
        root: Folder of the cohort.
        contract: Contract of a finished volume set of it.

    Raises:
        DataError: if patients were added or their scans changed, which an import reads; or a row is refused.
    """
    patients = source.patient_ids()
    state = _State(root, contract, source)
    pending = [patient for patient in patients if state.entry(patient) is None and not state.failed(patient)]
    if pending:
        raise DataError(
            f"{len(pending)} of {len(patients)} patients are new or have other scans than were imported; run `make "
            "import` as before, which reads theirs alone and refreshes the tables, too."
        )
    return _assemble(source, state, patients, contract, 0)


def _work_off(
    source: Source,
    state: _State,
    patients: list[str],
    contract: PreprocessingContract,
    workers: int | None,
    progress: Progress | None,
) -> int:
    """Write every patient that is not there as the source has it, and return how many those are."""
    pending = [patient for patient in patients if state.entry(patient) is None]
    done = len(patients) - len(pending)
    if progress is not None:
        progress(done, len(patients))
    job = PatientJob(source, state.folder, state.volumes, contract)
    jobs = run_jobs(job, pending, default_workers() if workers is None else workers)
    for count, _ in enumerate(jobs, start=done + 1):
        if progress is not None:
            progress(count, len(patients))
    return len(pending)


def add_volumes(
    source: Source,
    cohort: Cohort,
    contract: PreprocessingContract,
    workers: int | None = None,
    progress: Progress | None = None,
) -> VolumeSet:
    """Write a further volume set of a finished cohort; its tables stay as they are.

    Patients that an interrupted call finished are kept.

    Args:
        source: Where the cohort came from.
        cohort: The cohort.
        contract: Preprocessing contract of the set to write.
        workers: Processes; all cores by default.
        progress: Called with (patients done, patients in all).

    Returns:
        The set; a finished one is not written again.

    Raises:
        DataError: if the source gives other patients or volumes than the cohort holds, or a patient failed.
    """
    folder = volume_folder(cohort.root, contract)
    if is_whole(folder):
        return VolumeSet(folder)
    patients = cohort["patients"]["patient_id"].tolist()
    _check_source(source, cohort, patients, folder)
    state = _AddedSet(cohort.root, contract, source)
    _work_off(source, state, patients, contract, workers, progress)
    entries = [read_json_mapping(state.path(patient), "status", "reason") for patient in patients]
    lost = [entry for entry in entries if entry["status"] != "imported"]
    if lost:
        raise DataError(
            f"{len(lost)} of {len(patients)} patients of cohort {cohort.info.name} have no volumes for "
            f"{folder.name}: {lost[0]['reason']} Repair the source and run the same command again; the others are kept."
        )
    finish_volume_set(folder, contract, [entry["volumes"] for entry in entries])
    return VolumeSet(folder)


def _check_source(source: Source, cohort: Cohort, patients: list[str], added: Path) -> None:
    """Refuse a source that is not the cohort's: it must give the very volumes that stand there."""
    absent = sorted(set(patients) - set(source.patient_ids()))
    if absent:
        raise DataError(
            f"The source has no patient {absent[0]} ({len(absent)} of {len(patients)} are absent); name the one that "
            f"cohort {cohort.info.name} was made from."
        )
    known = [path.parent for path in sorted((cohort.root / "volumes").glob("*/contract.json")) if path.parent != added]
    if not known:
        raise DataError(f"Cohort {cohort.info.name} holds no finished volume set; run `make cohort` or `make import`.")
    stored = VolumeSet(known[0])
    rows = stored.index[stored.index["patient_id"] == patients[0]]
    keys = ["study_id", "series_id", "side"]
    expected = {tuple(row[key] for key in keys): int(row["crc32"]) for row in rows.to_dict("records")}
    record = source.load(patients[0], stored.contract)
    found = {(one.study_id, one.series_id, one.side): checksum(one.image) for one in record.volumes}
    shared = expected.keys() & found.keys()  # either may hold the index kidney alone
    if not shared or any(expected[key] != found[key] for key in shared):
        raise DataError(
            f"The source gives other volumes of patient {patients[0]} than cohort {cohort.info.name} holds: its files "
            "or the code that reads them changed since. Make the cohort anew in another folder."
        )


class _State:
    """The entries of finished patients under `.build/`, valid for one source or its unchanged patients."""

    def __init__(self, root: Path, contract: PreprocessingContract, source: Source) -> None:
        self.root, self.volumes = root, volume_folder(root, contract)
        self.folder = root / BUILD / self.volumes.name
        self.growing = source if isinstance(source, GrowingSource) else None
        self._prints: dict[str, str] = {}
        key = root / BUILD / "source.json"
        stored = _stored_key(key)
        settings = None if self.growing is None else self.growing.settings_print
        if stored.get("fingerprint") == source.fingerprint:
            return
        if settings is None or stored.get("settings") != settings:
            if (root / "cohort.json").is_file():
                raise DataError(
                    f"{root.name} holds a finished cohort made from another source or with other settings, or its "
                    f"{BUILD}/source.json is damaged; finished work is not overwritten. Choose another folder, or "
                    "delete that one."
                )
            if stored:  # an interrupted build of something else: none of it can be kept
                shutil.rmtree(root / BUILD)
                shutil.rmtree(root / "volumes", ignore_errors=True)
        write_json(key, {"fingerprint": source.fingerprint, "settings": settings})

    def path(self, patient_id: str) -> Path:
        return self.folder / f"{shard_name(patient_id)}.json"

    def entry(self, patient_id: str) -> dict[str, Any] | None:
        """What a finished patient left; None where it is to be done (again): failures are tried again."""
        entry = stored_entry(self.path(patient_id))
        if entry is None or entry["status"] == "failed" or self._changed(entry) or self._lost(entry):
            return None
        return entry

    def failed(self, patient_id: str) -> bool:
        """Whether a patient failed and its files are as they were then."""
        entry = stored_entry(self.path(patient_id))
        return entry is not None and entry["status"] == "failed" and not self._changed(entry)

    def _changed(self, entry: dict[str, Any]) -> bool:
        """Whether the files of a patient are others than it was read from."""
        patient = entry["patient_id"]
        if self.growing is None or "print" not in entry:
            return False
        if patient not in self._prints:
            self._prints[patient] = self.growing.patient_print(patient)
        return bool(entry["print"] != self._prints[patient])

    def _lost(self, entry: dict[str, Any]) -> bool:
        """Whether a file of an imported patient is missing."""
        shard = entry.get("volumes")
        if shard is None:
            return False
        stem = Path(shard["shard"]).stem
        names = [f"shards/{stem}.bin"] * bool(shard["litdata"]) + [f"masks/{stem}.npz"] * shard["masks"]
        return not all((self.volumes / name).is_file() for name in names)


def _stored_key(path: Path) -> dict[str, Any]:
    """What a build was begun from; nothing where none was, no source's where the file is damaged."""
    try:
        return read_json_mapping(path, "fingerprint") if path.is_file() else {}
    except DataError:
        return {"fingerprint": ""}


class _AddedSet(_State):
    """The entries of a set that is added to a finished cohort; they are valid for one source."""

    def __init__(self, root: Path, contract: PreprocessingContract, source: Source) -> None:
        self.root, self.volumes = root, volume_folder(root, contract)
        self.folder = root / BUILD / self.volumes.name
        self.growing = source if isinstance(source, GrowingSource) else None
        self._prints = {}
        fingerprint = source.fingerprint
        key = self.folder / "source.json"
        if _stored_key(key).get("fingerprint", fingerprint) != fingerprint:
            if (self.volumes / "contract.json").is_file():
                raise DataError(
                    f"Volume set {self.volumes.name} is finished, has lost a file and was made from another source or "
                    "with other settings; name that source, or delete the set."
                )
            shutil.rmtree(self.folder)
            shutil.rmtree(self.volumes, ignore_errors=True)
        write_json(key, {"fingerprint": fingerprint})


def _assemble(
    source: Source, state: _State, patients: list[str], contract: PreprocessingContract, read: int
) -> tuple[Cohort, ImportAccount]:
    entries = [entry for patient in patients if (entry := state.entry(patient) or _failed(state, patient)) is not None]
    if isinstance(source, GrowingSource):
        entries = [_renewed(source, state, entry) if entry["status"] == "imported" else entry for entry in entries]
    imported = [entry for entry in entries if entry["status"] == "imported"]
    rows = pd.DataFrame([{k: e[k] for k in ("patient_id", "status", "reason")} for e in entries])
    if not imported:
        write_parquet(state.root / "import.parquet", rows)
        reasons = "; ".join(f"{entry['patient_id']}: {entry['reason']}" for entry in entries[:3])
        raise DataError(f"None of {len(patients)} patients could be imported. {reasons}")
    names = {name for entry in imported for name in entry["rows"]}
    tables = {name: pd.DataFrame([row for e in imported for row in e["rows"].get(name, [])]) for name in sorted(names)}
    stored = state.root / "splits.parquet"
    if stored.is_file():  # a rerun that adds patients moves nobody who was there
        tables["splits"] = read_parquet(stored)[0]
    tables = source.finish(tables)
    removed = remove_others(state.root, patients) if isinstance(source, GrowingSource) else []
    mend = ["attributes (`make attributes`)"] * drop_derived(state.root, tables.get("reports"))
    report = ImportAccount(rows, read, tuple(removed), tuple(mend))
    write_parquet(state.root / "import.parquet", report.rows)
    finish_volume_set(state.volumes, contract, [entry["volumes"] for entry in imported])
    for name in sorted(set(tables) - set(TABLES)):  # a generator's truth, which no training code reads
        write_parquet(state.root / f"{name}.parquet", tables[name])
    Cohort(state.root, source.info, {name: frame for name, frame in tables.items() if name in TABLES}).write()
    stale = mend_other_sets(state.root, state.volumes, imported) if read or removed else []
    sets = tuple(f"volume set {name} (`make import` or `make volumes` under its profile)" for name in stale)
    return Cohort.load(state.root), replace(report, mend=(*report.mend, *sets))


def _renewed(source: GrowingSource, state: _State, entry: dict[str, Any]) -> dict[str, Any]:
    """The entry with today's rows; what a table no longer says is not left in the folder of the build either."""
    fresh = refreshed(source, entry)
    if fresh != entry:
        write_json(state.path(entry["patient_id"]), fresh)
    return fresh


def _failed(state: _State, patient_id: str) -> dict[str, Any] | None:
    return stored_entry(state.path(patient_id))
