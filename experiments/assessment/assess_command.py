"""`make assess`: a new patient, or a folder of them, through all that a cohort's finished runs can say."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from datamodules.csv_files import write_csv
from datamodules.engine import Lost, Needs, open_pool
from datamodules.errors import DataError
from datamodules.files import read_json_mapping, write_parquet
from datamodules.importers.patient_jobs import failure_of_patient, of_target
from datamodules.importers.pseudonyms import Pseudonyms, private_folder
from experiments.assessment.assessment_job import RESULT, AssessmentJob
from experiments.assessment.assessor import Assessor
from experiments.assessment.dicom_objects import highdicom
from experiments.assessment.patient_files import PatientFiles, patients_in
from experiments.assessment.rows import ASSESSED, refused_row, row_of
from experiments.runs.console import configure_output, say
from experiments.runs.locks import held
from experiments.runs.tracking import store_environment
from lightning_modules.core.errors import ModelError


def assess(
    source: Path,
    out: Path = Path("assessment"),
    mask: list[Path] | None = None,
    box: dict[str, str] | None = None,
    labels: str | dict[int, str] = "kits",
    phase: str | None = None,
    locate: Literal["given", "totalsegmentator"] = "given",
    batch: bool | None = None,
    identified: bool = False,
    dicom: bool = False,
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
    workers: int = 1,
    intensity: Literal["acquired", "rendered"] = "acquired",
) -> int:
    """Assess a new patient, or a folder of patients: `assessment.json` and a page that prints on two.

    All contrast phases of the examination are read together, and both kidneys. For every lesion R.E.N.A.L., PADUA and
    the centrality index are measured on its mask; every task of which a finished probe of the cohort and encoder is
    here gives its scores, with the attributes of stage 1 and the most alike cases of the pretraining centres. A folder
    of patients gives one row each in `assessments.parquet` and `.csv`, goes on where it was interrupted, and lists
    who could not be assessed, and why.

    Args:
        source: NIfTI file in HU, folder of one examination (DICOM, or NIfTI files called after their contrast phase,
            a mask beside them), or folder of such folders.
        out: Folder to write.
        mask: Label map, folder of binary masks, or several of them, of one patient; a DICOM folder may hold its own SEG
            or RTSTRUCT, and any patient's folder a mask called `mask.nii.gz`.
        box: Where the kidneys of one patient are without a mask: `x y z x y z` in RAS millimetres by side.
        labels: Codes of a label map: kits, totalsegmentator, or code: name.
        phase: Contrast phase: non_contrast, arterial, venous or delayed; read from DICOM headers or names of files when
            left out.
        locate: Who shows where the kidneys are without mask and box: `given`, nobody; `totalsegmentator`, that package,
            where it is installed.
        batch: Whether the source is a folder of patients; found out when left out.
        identified: Whether JSON, page and table name the patient's folder; otherwise a folder of patients gives keyed
            pseudonyms, whose key lies beside `out`.
        dicom: Whether DICOM objects are written beside the page: SEG of the lesions and of the regions that the encoder
            paints, and SR (TID 1500) of the measurements; with `identified` they hold the patient's name, number and
            dates as the source does. Needs highdicom.
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
        workers: Patients of a folder that are assessed side by side, each in a process with a GPU or a share of the
            cores; each takes 1 GB.
        intensity: Whether scans were acquired by a scanner, or rendered from masks.

    Returns:
        0, or 1 where a patient of a folder could not be assessed.
    """
    patients = patients_in(source, batch)
    many = len(patients) > 1 or bool(batch)
    if many and (mask or box):
        raise DataError(
            "MASK or BOX was given for a folder of patients; put a mask called mask.nii.gz into each of their folders."
        )
    if dicom:
        highdicom()
    names = _names(patients, out, identified) if many else [""]
    started = time.monotonic()
    assessor = Assessor.of_runs(
        data, runs, encoder, pretrained, fold, mode, seed, tag, cases, intensity, outside_training
    )
    say(f"Models are read in {time.monotonic() - started:.1f} s.")
    chosen = {"encoder": encoder, "pretrained": pretrained, "fold": fold, "mode": mode, "seed": seed, "tag": tag}
    chosen |= {"cases": cases, "outside_training": outside_training, "intensity": intensity}
    chosen["models"] = assessor.fingerprint
    job = AssessmentJob(assessor, chosen, tuple(mask or ()), box, labels, phase, locate, identified, dicom)
    with held(out / ".assessing.lock"):
        if not many:
            job.run(patients[0], out, again=False)
            say(f"{_summary(read_json_mapping(out / RESULT))}\nFolder: {out.as_posix()}")
            return 0
        return _batch(job, patients, names, out, workers)


def _names(patients: list[PatientFiles], out: Path, identified: bool) -> list[str]:
    """What patients are called in outputs: their folders' names, or keyed pseudonyms of them."""
    if identified:
        return [patient.folder.name for patient in patients]
    naming = Pseudonyms.load(private_folder(out), out)
    return [naming.patient(patient.folder.name) for patient in patients]


def _batch(job: AssessmentJob, patients: list[PatientFiles], names: list[str], out: Path, workers: int) -> int:
    """Every patient of a folder; the tables hold all that were reached, in the order of the folders."""
    found: dict[str, dict[str, Any]] = {}
    tasks = list(zip(patients, names, strict=True))
    needs = Needs(gpu=True, environment=store_environment(), begin=configure_output)
    try:
        with open_pool(partial(_one, job, out), min(workers, len(tasks)), needs) as pool:
            for (_, name), row in pool.run(tasks):
                # Who ended two processes is tried again by the next call.
                found[name] = refused_row(name, row.sentence) if isinstance(row, Lost) else row
                say(f"Patient {len(found)} of {len(tasks)}: {name}")
    finally:
        rows = [found[name] for name in names if name in found]
        if rows:
            _write_tables(out, rows)
    lost = [row for row in rows if row["status"] != ASSESSED]
    for row in lost:
        say(f"{row['patient']} was not assessed: {row['reason']}")
    say(f"{len(rows) - len(lost)} of {len(rows)} patients were assessed.\nFolder: {out.as_posix()}")
    return 1 if lost else 0


def _one(job: AssessmentJob, out: Path, named: tuple[PatientFiles, str]) -> dict[str, Any]:
    (patient, name), folder = named, out / named[1]
    known = job.refused(patient, folder)
    if known is not None:
        return refused_row(name, known)
    try:
        job.run(patient, folder, again=True)
    except ModelError:
        raise  # it would be that of every patient
    except Exception as error:
        if of_target(error):
            raise  # stop, and go on from here when the disk takes it
        reason = failure_of_patient(error)
        if isinstance(error, DataError):  # of anything else it is not known whether it comes again
            job.refuse(patient, folder, reason)
        return refused_row(name, reason)
    return row_of(name, read_json_mapping(folder / RESULT))


def _write_tables(out: Path, rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    frame = pd.DataFrame(rows, columns=columns)
    write_parquet(out / "assessments.parquet", frame)
    write_csv(out / "assessments.csv", frame)
    lost = frame.loc[frame["status"] != ASSESSED, ["patient", "reason"]]
    write_csv(out / "failures.csv", lost)


def _summary(content: dict[str, Any]) -> str:
    """What a command line says of one patient."""
    lines = [content["headline"], f"Phases: {' '.join(content['phases'])}."]
    for kidney in content["kidneys"]:
        if kidney["lesions"] == []:
            lines.append(f"{kidney['side'].capitalize()} kidney: no lesion by the {kidney['outlined_by']}.")
            continue
        lesions = kidney["lesions"] or []
        count = f"{len(lesions)} lesions by the {kidney['outlined_by']}" if lesions else "lesions not drawn"
        scored = next((lesion for lesion in lesions if "renal" in lesion), None)
        renal = f"R.E.N.A.L. {scored['renal']['text']}. " if scored else ""
        tasks = "; ".join(
            f"{found['title']}: {found['highest']} {found['scores'][found['highest']]:.2f}"
            for name, found in kidney.get("tasks", {}).items()
            if "scores" in found and "withheld" not in found and not name.startswith("renal_")
        )
        said = tasks or kidney.get("silenced", "No class stands")
        lines.append(f"{kidney['side'].capitalize()} kidney: {count}. {renal}{said.rstrip('.')}.")
    lines += [f"Note: {note}" for note in content["notes"]]
    return "\n".join(lines)
