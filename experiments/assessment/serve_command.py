"""`make serve`: a page of this machine on which a study is dropped and its assessment read."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

from datamodules.errors import DataError
from experiments.assessment.assessment_job import write_results
from experiments.assessment.assessor import Assessor
from experiments.assessment.dicom_objects import highdicom
from experiments.assessment.jobs import Jobs
from experiments.assessment.patient_files import one_patient
from experiments.assessment.serve_page import create_app
from experiments.assessment.uploads import Limits
from experiments.runs.local_pages import HOST, LOCAL, serve, serve_until_stopped


def serve_assessments(
    data: Path = Path("data/demo"),
    encoder: str = "best",
    pretrained: str = "s42",
    fold: int | None = None,
    mode: str = "probe",
    seed: int = 42,
    tag: str = "",
    cases: bool = True,
    runs: Path = Path("runs"),
    outside_training: bool = False,
    intensity: Literal["acquired", "rendered"] = "acquired",
    dicom: bool = False,
    host: str = HOST,
    port: int = 5001,
    keep: Path | None = None,
    limit_mb: int = 2048,
) -> int:
    """Open a page on which a study is dropped and its assessment read; nothing of it is kept unless KEEP= is given.

    A study is a zip of DICOM files, or of NIfTI files called after their phases, with its mask; or one NIfTI file and a
    mask. It is assessed as `make assess` does. The page is of this machine alone; with another HOST= it asks for a
    token, which is printed. Stop it with Ctrl-C.

    Args:
        data: Cohort whose finished runs are applied.
        encoder: Encoder whose runs are applied; best for the aligned one or that of stage 1.
        pretrained: Pretraining of the encoder: `s42`, or with its TAG `s42-mytag`.
        fold: Fold whose models are applied, for a cohort with folds.
        mode: How the tasks were trained; probe leaves what can be applied to a new patient.
        seed: Seed of the tasks' runs.
        tag: TAG of the tasks' runs.
        cases: Whether the most alike cases are looked for; their features are computed once.
        runs: Folder of all runs.
        outside_training: Whether the models are asked of a kidney that is outside the training data.
        intensity: Whether scans were acquired by a scanner, or rendered from masks.
        dicom: Whether SEG and SR of a DICOM study are offered, without the patient's name; needs highdicom.
        host: Address to listen on; any other than this machine's own asks for a token. Nothing is encrypted: put a
            proxy with TLS before it.
        port: Port of the page.
        keep: Folder in which every assessment is kept, without the study; none by default.
        limit_mb: Largest study that is taken, in MB.
    """
    if limit_mb < 1:
        raise DataError(f"LIMIT_MB={limit_mb} was found; expected 1 or more.")
    if dicom:
        highdicom()
    assessor = Assessor.of_runs(
        data, runs, encoder, pretrained, fold, mode, seed, tag, cases, intensity, outside_training
    )
    token = "" if host in LOCAL else secrets.token_urlsafe(24)
    jobs = Jobs()
    limits = Limits(upload_bytes=limit_mb << 20, unpacked_bytes=3 * (limit_mb << 20))
    hosts = () if host == "0.0.0.0" else (*LOCAL, host)
    work = partial(_assess_study, assessor, keep, dicom)
    server = serve(create_app(work, jobs, limits, assessor.origin, token, hosts), port, host)
    shown = f"http://{host}:{server.port}/{f'?token={token}' if token else ''}"
    kept = f"Assessments are kept in {keep.name}." if keep else "Nothing is kept."
    try:
        serve_until_stopped(server, f"{assessor.origin} {kept}\nOpen {shown} in the browser; stop with Ctrl-C.")
    finally:
        jobs.close()
    return 0


def _assess_study(
    assessor: Assessor, keep: Path | None, dicom: bool, folder: Path, step: Callable[[str], None]
) -> Mapping[str, bytes]:
    """Assess a study that was sent; results by file name, as of `create_app`."""
    step("reading the study")
    patient = one_patient(folder)
    step("measuring, and asking the models")
    found = assessor(patient.image, patient.masks)
    step("drawing the page")
    with tempfile.TemporaryDirectory(prefix="renal-result-") as name:
        out = Path(name)
        write_results(out, found, assessor.models, patient.dicom_folder if dicom else None)
        results = {path.name: path.read_bytes() for path in sorted(out.iterdir())}
    if keep is not None:
        kept = keep / secrets.token_hex(6)
        kept.mkdir(parents=True)
        for file, content in results.items():
            (kept / file).write_bytes(content)
    return results
