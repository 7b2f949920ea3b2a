"""The export of a trained image encoder as the folder that `ENCODER=` and anyone else can load."""

from __future__ import annotations

from pathlib import Path

from datamodules.cohort.cohort import Cohort
from experiments.pretraining.cards import encoder_card
from experiments.registry import STAGES
from experiments.runs.folders import ENCODER_FOLDER
from experiments.runs.launch import Finished
from experiments.runs.run_data import hand_over
from lightning_modules.export.image import save_encoder
from lightning_modules.networks.image.encoders import EncoderConfig


def export_encoder(finished: Finished, cohort: Cohort, stage: str, folder: Path, summary: str) -> str:
    """Write the encoder of a finished stage with its contract and card.

    Returns:
        SHA-256 of its weights.
    """
    model = finished.model
    config = EncoderConfig.of(model.hparams["encoder"])
    card = encoder_card(STAGES[stage].title, cohort.info, config, model.contract, summary)
    export = folder / ENCODER_FOLDER
    training_data = hand_over(folder, export)
    return save_encoder(export, model.encoder, config, model.contract, card, training_data)  # type: ignore[arg-type]
