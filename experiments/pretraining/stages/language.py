"""Runs on a language model: where its base is, what is recorded of it, and the text encoder that an alignment takes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.trained_on import TRAINING_DATA, TrainedOn
from datamodules.errors import DataError
from datamodules.reports.llm.models import model_source
from experiments.pretraining.cards import text_card
from experiments.pretraining.stages.common import Pretraining, stage_launch
from experiments.runs.folders import ENCODER_FOLDER, experiment_of, text_encoder_folder
from experiments.runs.launch import Launch
from experiments.runs.started_ranks import wait_for_main
from lightning_modules.core.distributed import is_main_rank
from lightning_modules.export.text import ADAPTER, MAY_DIFFER, read_text_encoder, save_text_encoder
from lightning_modules.networks.text.encoder import TextEncoder, TextEncoderConfig


def text_source(settings: TextEncoderConfig) -> tuple[str, str]:
    """Where the base of a configuration is, and what is recorded of it: never a path."""
    source = model_source(str(settings.base or settings.base_name))[0]
    if not settings.base:
        return source, settings.base_name
    return source, Path(source).name if Path(source).is_dir() else source


def language_launch(
    wanted: Pretraining,
    cohort: Cohort,
    stage: str,
    fold: int | None,
    *,
    config: str,
    options: Mapping[str, Any],
) -> Launch:
    """The run of a part of a stage on a language model, whose base is looked for before any training time is spent.

    Args:
        wanted: What was asked for.
        cohort: The cohort.
        stage: Stage of the registry.
        fold: Fold that will be tested.
        config: The part, a file under `configs/stage`.
        options: Further flags by dotted key.

    Raises:
        ModelError: if the base cannot be found.
    """
    bare = stage_launch(wanted, cohort, stage, fold, config=config, options=options)
    settings = TextEncoderConfig.of(bare.configuration.resolved()["text"])
    source, name = text_source(settings)
    found = {**options, "text.base": source}
    if settings.base and not any(flag.startswith("--text.base_name") for flag in wanted.extra):
        found["text.base_name"] = name  # the profile's name is that of another base
    return stage_launch(wanted, cohort, stage, fold, config=config, options=found)


def text_tower(wanted: Pretraining, cohort: Cohort, fold: int | None, settings: TextEncoderConfig) -> Path:
    """The folder of the text encoder that an alignment starts from.

    Args:
        wanted: What was asked for.
        cohort: The cohort.
        fold: Fold that will be tested.
        settings: The `text` group of the run; without adapters its base is taken as it is.

    Raises:
        DataError: if stage 2 was not run yet.
        ModelError: if the base cannot be loaded.
    """
    if not settings.adapter:
        return _base_folder(wanted, cohort, settings)
    found = text_encoder_folder(wanted.runs, cohort, wanted.seed, fold, wanted.tag)
    if found is None:
        raise DataError(
            f"Cohort {cohort.info.name} has no text encoder with pretraining seed {wanted.seed}"
            f"{'' if fold is None else f', fold {fold}'}; run `make pretrain STAGES=text` first."
        )
    return found


def load_source(folder: Path, settings: TextEncoderConfig) -> str:
    """Where the base of an exported text encoder is."""
    return model_source(str(settings.base or read_text_encoder(folder).config.base_name))[0]


def trained_options(folder: Path, settings: TextEncoderConfig) -> dict[str, Any]:
    """Flags of a run that trains the text encoder of a folder: its settings, and where its base and adapters are."""
    exported = read_text_encoder(folder)
    recorded = {name: value for name, value in exported.config.recorded().items() if name not in MAY_DIFFER}
    # Nothing is said as null: a flag that is left out would be the profile's.
    given = {f"text.{name}": "null" if value is None else value for name, value in recorded.items()}
    weights = {"text_pretrained": folder, "text_sha256": exported.sha256}
    return {
        **given,
        "text.base": load_source(folder, settings),
        **{f"model.init_args.{name}": value for name, value in weights.items()},
    }


def save_trained(encoder: TextEncoder, cohort: Cohort, folder: Path, summary: str, training_data: str) -> None:
    """Write a text encoder that was trained in alignment.

    Args:
        encoder: The encoder.
        cohort: The cohort.
        folder: Folder to write.
        summary: What the alignment reached.
        training_data: Hash of the record of whom it was trained on, which lies in the folder.
    """
    title = "Text encoder, trained with the image encoder"
    card = text_card(title, cohort.info, encoder.config, encoder.base_fingerprint, summary)
    save_text_encoder(folder, encoder, card, training_data)


def _base_folder(wanted: Pretraining, cohort: Cohort, settings: TextEncoderConfig) -> Path:
    """The un-adapted base as an exported text encoder; it depends on no cohort and no seed and is made once."""
    source, name = text_source(settings)
    config = replace(settings, base=source, base_name=name, projection=None)
    digest = hashlib.sha256(json.dumps(config.recorded(), sort_keys=True).encode()).hexdigest()[:8]
    folder = wanted.runs / experiment_of(cohort, "text") / f"base-{digest}" / ENCODER_FOLDER

    def whole() -> bool:
        return (folder / ADAPTER).is_file() and (folder / TRAINING_DATA).is_file()

    if not is_main_rank():
        wait_for_main("text encoder", whole)
    elif not whole():
        encoder = TextEncoder(config)
        title = f"Language model {name}, un-adapted"
        card = text_card(title, cohort.info, config, encoder.base_fingerprint, "")
        save_text_encoder(folder, encoder, card, TrainedOn.nobody().write(folder))
    return folder
