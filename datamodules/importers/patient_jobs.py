"""The work of one patient in a build, and the one place where any failure of it becomes "failed", with a reason."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import datamodules
from datamodules.cohort.table_checks import check_table
from datamodules.cohort.tables import TABLES
from datamodules.engine import Lost, Needs, open_pool
from datamodules.errors import DataError, WriteError, raise_failures
from datamodules.files import write_json
from datamodules.importers.records import GrowingSource, PatientRecord, SkipPatient, Source
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.shards import shard_name, write_shard

_TARGET = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
"""What the system answers where the cohort's own disk is at fault, and no patient."""
_MEMORY = "import with fewer workers (--workers=1) or on a machine with more memory"


@dataclass(frozen=True)
class PatientJob:
    """Reads or generates one patient, writes its shard and then its entry; sent to worker processes.

    The entry is written last, so that a killed worker leaves the patient undone. It has the keys patient_id, status
    (imported, skipped, failed) and reason, and of an imported patient `rows` and `volumes`.

    Args:
        source: Importer or generator.
        entries: Folder of the entries.
        volumes: Folder of the volume set.
        contract: Preprocessing contract of the set.
    """

    source: Source
    entries: Path
    volumes: Path
    contract: PreprocessingContract

    def path(self, patient_id: str) -> Path:
        """File of a patient's entry."""
        return self.entries / f"{shard_name(patient_id)}.json"

    def __call__(self, patient_id: str) -> str:
        """Do the work and return the patient.

        Whatever goes wrong with the patient's own files, or with the code that reads them, costs this patient only.
        No reason quotes a message that this suite did not write: those of libraries show paths and values.

        Raises:
            DataError, OSError: if the cohort's disk does not take what is written.
        """
        entry: dict[str, Any] = {
            "patient_id": patient_id,
            "status": "imported",
            "reason": "",
            **self._print(patient_id),
        }
        try:
            record = self.source.load(patient_id, self.contract)
            _check_rows(record)
            entry |= {
                "rows": {name: list(rows) for name, rows in record.rows.items()},
                "volumes": write_shard(self.volumes, patient_id, record.volumes, record.masks, self.contract),
                "reason": " ".join(record.notes),
                "notes": list(record.scan_notes),
                "cut": record.cut,
            }
            write_json(self.path(patient_id), entry)
        except SkipPatient as error:
            self._account(patient_id, "skipped", str(error))
        except Exception as error:
            if of_target(error):
                raise  # stop, and go on from here when the disk takes it
            self._account(patient_id, "failed", failure_of_patient(error))
        return patient_id

    def lost(self, patient_id: str) -> str:
        """Account for a patient whose process ended twice, and return it."""
        self._account(
            patient_id,
            "failed",
            f"Its worker process was ended twice, most likely by the system for lack of memory; {_MEMORY}.",
        )
        return patient_id

    def _account(self, patient_id: str, status: str, reason: str) -> None:
        account = {"patient_id": patient_id, "status": status, "reason": reason, **self._print(patient_id)}
        write_json(self.path(patient_id), account)

    def _print(self, patient_id: str) -> dict[str, str]:
        """What a patient is read from, for a cohort that may grow."""
        return {"print": self.source.patient_print(patient_id)} if isinstance(self.source, GrowingSource) else {}


def _check_rows(record: PatientRecord) -> None:
    """Refuse a patient whose rows the schema refuses, who would else be refused with the whole cohort."""
    for name, rows in record.rows.items():
        if name in TABLES and rows:
            raise_failures(check_table(pd.DataFrame(list(rows)), TABLES[name], f"its rows of {name}"))


def of_target(error: BaseException) -> bool:
    """Whether the disk that is written to is the cause, and no patient."""
    chain = (error, error.__cause__)
    return isinstance(error, WriteError) or any(isinstance(one, OSError) and one.errno in _TARGET for one in chain)


def failure_of_patient(error: Exception) -> str:
    """Why a patient failed, in words that hold no path and no identifier, whatever was raised."""
    if isinstance(error, DataError):
        return " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return f"Its scans do not fit into memory; {_MEMORY}."
    frames = traceback.walk_tb(error.__traceback__)
    own = [(frame.f_globals.get("__name__", ""), frame.f_code.co_name) for frame, _ in frames]
    own = [place for place in own if place[0].startswith(datamodules.__name__)]
    place = ".".join(own[-1]) if own else "unknown"
    return (
        f"Its files could not be read ({type(error).__name__} in {place}); they may be damaged. Convert or copy them "
        "again, then run the same command."
    )


def run_jobs(job: PatientJob, pending: Sequence[str], workers: int) -> Iterator[str]:
    """Do the work of patients, in processes where more than one worker is asked for.

    A patient that ends two processes, as the system does it when memory is short, has failed.

    Args:
        job: The work.
        pending: Patients.
        workers: Processes.

    Yields:
        Each patient, once its entry is written.

    Raises:
        DataError: if no worker lives long enough to finish anyone.
        OSError: if the disk does not take what is written.
    """
    if not pending:  # no cluster is reached, and no job of SLURM asked for, where nothing is left to do
        return
    with open_pool(job, workers, Needs(one_thread=True)) as pool:
        for patient, outcome in pool.run(pending):
            yield job.lost(patient) if isinstance(outcome, Lost) else patient
