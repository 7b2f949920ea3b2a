"""A source whose reports are cleaned before anything of them is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from datamodules.importers.records import GrowingSource, PatientRecord, Source, SourceOver
from datamodules.reports.disclosures import redacted
from datamodules.volumes.contract import PreprocessingContract


@dataclass(frozen=True)
class RedactedSource(SourceOver):
    """Another source with names, dates, numbers, pathology and outcome taken out of its reports.

    Nothing of them reaches the folder of the cohort, kept work included. A report of which nothing is left is left out.

    Args:
        source: The source.
    """

    @property
    def fingerprint(self) -> str:
        """Another than the source's own: what is kept of a build without cleaning is not used."""
        return f"{self.source.fingerprint}-redacted"

    def load(self, patient_id: str, contract: PreprocessingContract) -> PatientRecord:
        """One patient with cleaned reports; raises as the source does."""
        record = self.source.load(patient_id, contract)
        if "reports" not in record.rows:
            return record
        reports = cleaned(record.rows["reports"])
        return replace(record, rows={**record.rows, "reports": reports})


@dataclass(frozen=True)
class RedactedGrowingSource(RedactedSource):
    """As `RedactedSource`, of a source whose cohort may change; it never mixes with what was not cleaned."""

    @property
    def _growing(self) -> GrowingSource:
        assert isinstance(self.source, GrowingSource)
        return self.source

    @property
    def settings_print(self) -> str:
        """Another than the source's own."""
        return f"{self._growing.settings_print}-redacted"

    def patient_print(self, patient_id: str) -> str:
        """As the source's own."""
        return self._growing.patient_print(patient_id)

    def refreshed(self, patient_id: str, cut: Mapping[str, Any]) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
        """Rows as the tables give them today, with cleaned reports."""
        rows, notes = self._growing.refreshed(patient_id, cut)
        return ({**rows, "reports": cleaned(rows["reports"])} if "reports" in rows else rows), notes


def redacting(source: Source) -> RedactedSource:
    """A source with cleaned reports, which may grow if the source may."""
    return RedactedGrowingSource(source) if isinstance(source, GrowingSource) else RedactedSource(source)


def cleaned(rows: Sequence[Mapping[Any, Any]]) -> list[dict[Any, Any]]:
    """Rows of the table `reports` with cleaned texts; those of which nothing is left are left out."""
    kept = [{**row, "text": redacted(str(row["text"]))} for row in rows]
    return [row for row in kept if row["text"]]
