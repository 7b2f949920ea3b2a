"""`make reports`: reports of measured geometry for a cohort that has masks and no reports."""

from __future__ import annotations

from pathlib import Path

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.table_checks import check_table, conform
from datamodules.cohort.tables import TABLES
from datamodules.errors import raise_failures
from datamodules.files import write_parquet
from datamodules.reports.measured import geometry_reports
from experiments.runs.console import say


def reports(data: Path) -> int:
    """Write reports that hold what the masks show, marked as generated, for a cohort without reports.

    Args:
        data: Folder of the cohort.
    """
    cohort = Cohort.load(data)
    frame = geometry_reports(cohort)
    raise_failures(check_table(frame, TABLES["reports"], "reports.parquet"))
    write_parquet(data / "reports.parquet", conform(frame, TABLES["reports"]))
    say(
        f"Cohort {cohort.info.name}: {len(frame)} reports written from measured geometry, marked generated; they hold "
        f"nothing of intensity, histology, grade or stage. The first:\n{frame['text'].iloc[0]}"
    )
    return 0
