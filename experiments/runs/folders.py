"""Where runs lie: the one place that knows the folders of stages, of what they export, and of results."""

from __future__ import annotations

from pathlib import Path

from datamodules.cohort.cohort import Cohort
from experiments.runs.pretrained import Pretrained
from lightning_modules.export.text import ADAPTER
from lightning_modules.export.writer import WEIGHTS as WRITER_WEIGHTS

ENCODER_FOLDER, WRITER_FOLDER = "encoder", "writer"
"""Exports within the folder of a run."""
EMBEDDINGS, FEATURES = "embeddings", "features"
"""Caches of a cohort that its runs share."""
OBJECTIVES = {
    "mntp": "masked next-token prediction",
    "simcse": "unsupervised SimCSE",
    "attribute_contrast": "contrast by attributes",
}
"""Runs of the stage `text` in order, each a file under `configs/stage`, trained from the adapters of the one before."""
WRITER_PARTS = {"report_projector": "projector", "report_adapters": "projector and adapters"}
"""Runs of the stage `report` in order, each a file under `configs/stage`, from the weights of the one before."""


def experiment_of(cohort: Cohort, kind: str) -> str:
    """The MLflow experiment of a cohort's runs of one kind, and the folder of its runs below that of all runs.

    Args:
        cohort: The cohort.
        kind: A task, or pretrain, text, probe, retrieval, reports, report, features, embeddings.
    """
    return f"renal/{cohort.info.name}/{kind}"


def cache_folder(runs: Path, cohort: Cohort | None, kind: str) -> Path:
    """A cache of a cohort, `EMBEDDINGS` or `FEATURES`; that of no cohort where there is none."""
    return runs / (f"renal/{kind}" if cohort is None else experiment_of(cohort, kind))


def stage_folder(runs: Path, cohort: Cohort, stage: str, seed: int, fold: int | None, tag: str = "") -> Path:
    """Where a pretraining stage of a cohort leaves its run; `tag` tells runs with changed settings apart."""
    folder = runs / experiment_of(cohort, "pretrain") / _name(stage, seed, tag)
    return folder if fold is None else folder / f"fold{fold}"


def own_tag(runs: Path, cohort: Cohort, stage: str, seed: int, fold: int | None, tag: str, file: Path) -> str:
    """The TAG whose run of a stage serves a pretraining: its own where that run left a file, else none.

    Args:
        runs: Folder of all runs.
        cohort: The cohort.
        stage: The stage.
        seed: Seed of the pretraining.
        fold: Fold that is tested.
        tag: TAG of the pretraining.
        file: What the run is needed for, below its folder.
    """
    return tag if (stage_folder(runs, cohort, stage, seed, fold, tag) / file).is_file() else ""


def text_encoder_folder(runs: Path, cohort: Cohort, seed: int, fold: int | None, tag: str = "") -> Path | None:
    """The exported text encoder of a cohort: that of the last objective that was trained; None where there is none.

    A pretraining with a TAG that has none of its own takes the one without.
    """
    stages = [stage_folder(runs, cohort, "text", seed, fold, own) for own in dict.fromkeys(("", tag))]
    return _last([stage / name / ENCODER_FOLDER for stage in stages for name in OBJECTIVES], ADAPTER)


def report_writer_folder(runs: Path, cohort: Cohort, seed: int, fold: int | None, tag: str = "") -> Path | None:
    """The exported report writer of a cohort: that of the last part that was trained; None where there is none."""
    stage = stage_folder(runs, cohort, "report", seed, fold, tag)
    return _last([stage / name / WRITER_FOLDER for name in WRITER_PARTS], WRITER_WEIGHTS)


def system_folder(runs: Path, cohort: Cohort, name: str, seed: int, tag: str = "") -> Path:
    """Where a system's reports of a cohort lie."""
    return runs / experiment_of(cohort, "reports") / _name(name, seed, tag)


def folds_of(cohort: Cohort) -> list[int | None]:
    """The folds of a cohort that has them; else one run without a fold."""
    if cohort.info.evaluation == "roles":
        return [None]
    return [int(value) for value in sorted(cohort["splits"]["fold"].dropna().unique())]


def _name(what: str, seed: int, tag: str) -> str:
    return f"{what}-{Pretrained(seed, tag)}"


def _last(folders: list[Path], file: str) -> Path | None:
    return next((folder for folder in reversed(folders) if (folder / file).is_file()), None)
