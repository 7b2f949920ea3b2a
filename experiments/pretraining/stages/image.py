"""Stage 1: the image encoder, supervised by the attributes that reports state."""

from __future__ import annotations

from callbacks.predictions import PREDICTIONS
from datamodules.attributes import AttributeDataModule
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.columns import PHASES
from datamodules.files import read_parquet
from experiments.cohorts.attributes import with_attributes
from experiments.pretraining.evaluation.attribute_results import stage_summary
from experiments.pretraining.evaluation.outlines import outlines_figure
from experiments.pretraining.stages.common import (
    Pretraining,
    already_finished,
    close,
    export_encoder,
    image_model,
    keep_likeness,
    stage_launch,
)
from experiments.runs.folders import ENCODER_FOLDER
from experiments.runs.launch import train
from experiments.scores.results_table import caption
from lightning_modules.core.distributed import is_main_rank
from lightning_modules.export.attribute_heads import AttributeHeads, save_heads
from lightning_modules.networks.image.regions import RegionEncoder
from lightning_modules.pretrain.attributes import AttributePretraining

STAGE = "image"
OUTLINES = "outlines.png"


def run(wanted: Pretraining, cohort: Cohort, fold: int | None) -> None:
    """Train it, test it on the centres it never saw, and export the encoder.

    Raises:
        DataError: if there is nothing to learn from, or the folder holds another configuration.
    """
    cohort = with_attributes(cohort, wanted.data)
    launch = stage_launch(wanted, cohort, STAGE, fold)
    if already_finished(launch):
        return
    finished = train(launch, test=True)
    if not is_main_rank():
        return
    predictions = read_parquet(launch.folder / PREDICTIONS)[0]
    summary = f"{stage_summary(launch.folder, predictions, cohort.info)} {caption(cohort.info)}"
    sha256 = export_encoder(finished, cohort, STAGE, launch.folder, summary)
    model: AttributePretraining = finished.model  # type: ignore[assignment]
    if isinstance(model.encoder, RegionEncoder):
        module: AttributeDataModule = model.trainer.datamodule  # type: ignore[attr-defined]
        outlines_figure(launch.folder / OUTLINES, model.encoder, module, predictions, caption(cohort.info))
    save_heads(launch.folder / ENCODER_FOLDER, AttributeHeads.of_state(model.state_dict(), model.classes, PHASES))
    keep_likeness(finished, cohort, fold, launch.folder / ENCODER_FOLDER)
    close(launch, finished, summary, {"encoder_sha256": sha256}, image_model(finished, model.encoder))
