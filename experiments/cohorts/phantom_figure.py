"""The README's picture of a phantom patient."""

from __future__ import annotations

from pathlib import Path

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.columns import PHASES
from datamodules.errors import DataError
from datamodules.phantoms.patient_figure import draw_patient
from datamodules.phantoms.phantom_source import DemoSource
from experiments.runs.console import say


def demo_figure(data: Path, patient: str | None, out: Path) -> None:
    """Draw a patient of a phantom cohort.

    Args:
        data: Folder of the phantom cohort.
        patient: Patient; by default the first internal one with all phases and a malignant tumour of 3 to 6 cm.
        out: PNG to write.

    Raises:
        DataError: if the cohort is not a phantom cohort, or holds no such patient.
    """
    cohort = Cohort.load(data)
    if not cohort.info.phantom or cohort.info.details is None:
        raise DataError(f"Cohort {cohort.info.name} is not a phantom cohort; only phantoms can be drawn anew.")
    source = DemoSource(int(cohort.info.details["patients"]), cohort.info.seed)
    chosen = patient or _typical(cohort)
    out.parent.mkdir(parents=True, exist_ok=True)
    draw_patient(source, chosen, out)
    say(f"Patient {chosen} drawn to {out.as_posix()}.")


def _typical(cohort: Cohort) -> str:
    phases = cohort["series"].groupby("patient_id")["phase"].nunique()
    patients = cohort.patients()
    wanted = patients[
        (patients["role"] == "internal")
        & (patients["malignancy"] == 1)
        & patients["tumor_size_mm"].between(30, 60)
        & patients["patient_id"].map(phases).eq(len(PHASES))
    ]
    if wanted.empty:
        raise DataError("No internal patient has four phases and a tumour of 3 to 6 cm; name one with --patient.")
    return str(wanted["patient_id"].iloc[0])
