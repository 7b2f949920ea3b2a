"""The control of stage 1: the same encoder, trained on the malignancy labels of the pretraining centres."""

from __future__ import annotations

from datamodules.cohort.cohort import Cohort
from experiments.pretraining.stages.common import (
    Pretraining,
    already_finished,
    close,
    export_encoder,
    image_model,
    stage_launch,
)
from experiments.runs.launch import FinishedRun, train
from experiments.scores.results_table import caption, with_interval
from experiments.statistics.discrimination import auroc_delong
from lightning_modules.core.distributed import is_main_rank

STAGE, TASK = "supervised", "malignancy"


def run(wanted: Pretraining, cohort: Cohort, fold: int | None) -> None:
    """Train it, validate its best epoch, and export the encoder.

    Raises:
        DataError: if there is nothing to learn from, or the folder holds another configuration.
    """
    launch = stage_launch(wanted, cohort, STAGE, fold, task=TASK)
    if already_finished(launch):
        return
    finished = train(launch, test=False)
    if not is_main_rank():
        return
    summary = f"{_summary(finished)} {caption(cohort.info)}"
    sha256 = export_encoder(finished, cohort, STAGE, launch.folder, summary)
    close(launch, finished, summary, {"encoder_sha256": sha256}, image_model(finished, finished.model.encoder))


def _summary(finished: FinishedRun) -> str:
    table = finished.model.val_table
    margin = (table.score[:, 1] - table.score[:, 0]).double().cpu().numpy()
    target = table.target.cpu().numpy()
    estimate = auroc_delong(target, margin)
    return (
        f"{TASK} on the validation patients of the pretraining centres: AUC "
        f"{with_interval(*estimate[:3], estimate.interval)} (95 % interval), n {len(target)}, "
        f"positives {int(target.sum())}; the epoch was chosen on these patients, so this is optimistic."
    )
