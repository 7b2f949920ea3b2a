"""What an importer or generator hands over for one patient: rows of the light tables and the heavy volumes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import pandas as pd

from datamodules.cohort.cohort import CohortInfo
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.roi import Mask, Volume

if TYPE_CHECKING:  # who writes records needs no reader of masks
    from datamodules.importers.locate import LocatedKidney


@dataclass(frozen=True)
class PatientRecord:
    """One patient, ready to be written.

    Args:
        patient_id: Pseudonym.
        rows: Table name to rows (plain dicts of the columns in `datamodules.cohort.tables`); an extra table `truth` of
            a generated cohort may hold anything.
        volumes: ROI volumes.
        masks: ROI label maps, where known.
        notes: What was left out and why, for the import report.
        cut: What was found in the scans, as plain data from which a `GrowingSource` makes the rows anew; None where the
            rows do not depend on tables.
        scan_notes: Those of the notes that come from the scans.
        located: The kidneys of each study as they were found in its scans, where there are scans; not stored.
    """

    patient_id: str
    rows: Mapping[str, Sequence[Mapping[str, Any]]]
    volumes: Sequence[Volume] = ()
    masks: Sequence[Mask] = ()
    notes: Sequence[str] = field(default_factory=tuple)
    cut: Mapping[str, Any] | None = None
    scan_notes: Sequence[str] = field(default_factory=tuple)
    located: Mapping[str, Sequence[LocatedKidney]] = field(default_factory=dict)


class SkipPatient(Exception):  # noqa: N818 - it is an outcome, not an error
    """Raised by a source when a patient cannot be part of the cohort; the message is the reason."""


class Source(Protocol):
    """Where patients come from: the phantom generator or an importer.

    A source is pickled to worker processes, so it holds paths and settings, not data.
    """

    @property
    def info(self) -> CohortInfo:
        """What `cohort.json` will say."""

    @property
    def fingerprint(self) -> str:
        """Hash of every setting and of the inputs' names, sizes and times: finished patients of an interrupted build
        are kept only when it is unchanged."""

    def patient_ids(self) -> list[str]:
        """All patients to account for, in a stable order."""

    def load(self, patient_id: str, contract: PreprocessingContract) -> PatientRecord:
        """Read or generate one patient.

        Raises:
            SkipPatient: with the reason, when the patient cannot be used.
            DataError: when a file is damaged; the build goes on with the others and counts it as failed.
        """

    def finish(self, tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
        """Add the tables that need all patients (`centers`, `splits`) to the assembled ones.

        `tables` holds `splits` where an earlier build of the cohort stored them; their patients keep what they have.
        """


@dataclass(frozen=True)
class SourceOver:
    """The patients of another source, as they are there; whoever derives from it changes what it loads.

    Args:
        source: The source.
    """

    source: Source

    @property
    def info(self) -> CohortInfo:
        """As the source's own."""
        return self.source.info

    @property
    def fingerprint(self) -> str:
        """As the source's own."""
        return self.source.fingerprint

    def patient_ids(self) -> list[str]:
        """As the source's own."""
        return self.source.patient_ids()

    def load(self, patient_id: str, contract: PreprocessingContract) -> PatientRecord:
        """One patient, as the source reads it."""
        return self.source.load(patient_id, contract)

    def finish(self, tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
        """As the source's own."""
        return self.source.finish(tables)


@runtime_checkable
class ReportsProgress(Protocol):
    """A source that has much to read before it knows its patients."""

    progress: Callable[[int, int], None] | None
    """Called with (files read, files in all); set by whoever shows it, and left behind when the source is pickled."""


@runtime_checkable
class GrowingSource(Protocol):
    """A source whose finished cohort may change: the files of each patient are known, and rows are made anew alone."""

    @property
    def settings_print(self) -> str:
        """Hash of what makes another cohort of the same files; a finished cohort is never changed to another one."""

    def patient_print(self, patient_id: str) -> str:
        """Hash of the settings and of the names, sizes and times of the files that a patient's volumes are from."""

    def refreshed(self, patient_id: str, cut: Mapping[str, Any]) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
        """Rows of a patient as its tables give them today, and notes.

        Args:
            patient_id: Patient.
            cut: `PatientRecord.cut` of when the scans were read.
        """
