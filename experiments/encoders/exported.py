"""The exported weights that `ENCODER=` names, of a pretraining stage or published."""

from __future__ import annotations

from pathlib import Path

from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from experiments.encoders.published.inputs import check_volume_set
from experiments.encoders.published.weights import weights_file
from experiments.registry import ENCODERS
from experiments.runs.console import say
from experiments.runs.folders import ENCODER_FOLDER, folds_of, stage_folder
from experiments.runs.pretrained import pretrained_from
from lightning_modules.export.image import WEIGHTS


def exported_encoder(
    runs: Path, cohort: Cohort, encoder: str, seed: int, fold: int | None, tag: str = ""
) -> Path | None:
    """The exported weights that an ENCODER of the registry names.

    Args:
        runs: Folder of all runs.
        cohort: The cohort; its stages were trained on its own pretraining centres or folds.
        encoder: Name in the registry.
        seed: Seed of the pretraining.
        fold: Fold that is tested; its encoder has not seen it.
        tag: TAG of the pretraining.

    Returns:
        The folder, the file of published weights, or None for an encoder that starts from random weights.

    Raises:
        DataError: if the stage was not run yet, or published weights or volumes for them are not here.
    """
    if ENCODERS[encoder].release:
        check_volume_set(cohort, encoder)
        return weights_file(encoder)
    stage = ENCODERS[encoder].stage
    if stage is None:
        return None
    folder = stage_folder(runs, cohort, stage, seed, fold, tag) / ENCODER_FOLDER
    if not (folder / WEIGHTS).is_file():
        raise DataError(
            f"ENCODER={encoder} has no weights for cohort {cohort.info.name} with pretraining seed {seed}"
            f"{'' if fold is None else f', fold {fold}'}; run `make pretrain STAGES={stage}"
            f"{f' TAG={tag}' if tag else ''}` first."
        )
    return folder


BEST = ("aligned", "stage1", "scratch")
"""Encoders in the order in which `ENCODER=best` looks for them; the last needs no weights."""


def best_encoder(runs: Path, cohort: Cohort, pretrained: str) -> str:
    """The first encoder of `BEST` that a pretraining has exported for a cohort; it is said which.

    Args:
        runs: Folder of all runs.
        cohort: The cohort.
        pretrained: The pretraining, as `s42`.
    """
    origin = pretrained_from(pretrained)
    for name in BEST:
        try:
            for fold in folds_of(cohort):
                exported_encoder(runs, cohort, name, origin.seed, fold, origin.tag)
        except DataError:
            continue
        break
    later = ", ".join(BEST[BEST.index(name) + 1 :])
    rest = f"before {later}" if later else "its weights are random, and `make pretrain` trains better ones"
    say(f"ENCODER={name} is the best that is here for {cohort.info.name}; {rest}.")
    return name
