"""Stage 1: the image encoder, supervised by the attributes that reports state."""

from __future__ import annotations

from callbacks.predictions import PREDICTIONS
from datamodules.cohort import Cohort
from datamodules.files import read_parquet
from datamodules.schema import PHASES
from experiments.attributes.extract import with_attributes
from experiments.attributes.results import stage_summary
from experiments.console import is_main_rank
from experiments.encoders import ENCODER_FOLDER
from experiments.evaluation import caption
from experiments.launch import train
from experiments.stages.common import Pretraining, already_finished, close, stage_launch
from experiments.stages.encoder import export_encoder
from lightning_modules.attributes import AttributePretraining
from lightning_modules.networks.attribute_heads import AttributeHeads, save_heads

STAGE = "image"


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
    save_heads(launch.folder / ENCODER_FOLDER, AttributeHeads.of_state(model.state_dict(), model.classes, PHASES))
    close(launch, finished, summary, {"encoder_sha256": sha256}, ENCODER_FOLDER)
