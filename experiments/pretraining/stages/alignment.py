"""Stage 3: image encoder and text encoder in one space."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datamodules.alignment import AlignmentDataModule
from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from datamodules.files import copy_file, read_json_mapping
from datamodules.kidney_features import write_features
from experiments.cohorts.attributes import with_attributes
from experiments.encoders.exported import exported_encoder
from experiments.encoders.features import frozen_features
from experiments.encoders.text_embeddings import embed_texts
from experiments.pretraining.cards import encoder_card
from experiments.pretraining.stages.common import (
    Pretraining,
    already_finished,
    close,
    image_model,
    keep_likeness,
    placeholders,
    stage_launch,
)
from experiments.pretraining.stages.language import load_source, save_trained, text_tower, trained_options
from experiments.registry import ENCODERS, STAGES
from experiments.runs.console import counted, say
from experiments.runs.folders import EMBEDDINGS, ENCODER_FOLDER, FEATURES, cache_folder, own_tag
from experiments.runs.launch import FinishedRun, Launch, train
from experiments.runs.run_data import hand_over
from experiments.runs.started_ranks import wait_for_main
from experiments.runs.suite_cli import read_checkpoint
from experiments.scores.results_table import caption, with_interval
from experiments.statistics.bootstrap import bootstrap
from experiments.statistics.means import owner_mean
from experiments.statistics.retrieval import recall_statistic
from lightning_modules.core.distributed import is_main_rank
from lightning_modules.export.aligned import TEXT, save_aligned
from lightning_modules.export.image import WEIGHTS, load_exported, weights_sha256
from lightning_modules.export.text import CONFIG, load_text_encoder, read_text_encoder
from lightning_modules.metrics.retrieval import retrieval_ranks
from lightning_modules.networks.image.encoders import EncoderConfig
from lightning_modules.networks.text.encoder import TextEncoderConfig
from lightning_modules.pretrain.alignment import ClipAlignment, paired
from lightning_modules.pretrain.joint_alignment import TextTowerAlignment

STAGE = "alignment"
FEATURE_TABLE = "features.parquet"
"""Features of a locked image encoder, in the folder of the run."""
_RECALL_AT = 5


def run(wanted: Pretraining, cohort: Cohort, fold: int | None, stage: str = STAGE) -> None:
    """Embed the reports, align the image encoder of stage 1 with them, and export the aligned model.

    Args:
        wanted: What was asked for.
        cohort: The cohort.
        fold: Fold that will be tested; its kidneys are not trained on.
        stage: The stage itself, or a variant of it: of the registry.

    Raises:
        DataError: if stage 1 or 2 was not run yet, or the folder holds another configuration.
        ModelError: if the text encoder's base cannot be loaded.
    """
    cohort = with_attributes(cohort, wanted.data)
    image = _image_encoder(wanted, cohort, fold, stage)
    options = _image_options(image)
    asked = _asked(wanted, cohort, fold, stage)
    settings, trained = asked.text, asked.text_moves
    if asked.locked and image is None:
        raise DataError(
            "model.init_args.locked=true keeps the image encoder as it is, and there is none to start from; set it to "
            "false for random weights."
        )
    text = text_tower(wanted, cohort, fold, settings)
    options |= {
        "data.init_args.text_fingerprint": read_text_encoder(text).fingerprint,
        "data.init_args.text_dim": int(read_json_mapping(text / CONFIG, "feature_dim")["feature_dim"]),
    }
    embeddings = {"data.init_args.embeddings": cache_folder(wanted.runs, cohort, EMBEDDINGS)}
    options |= trained_options(text, settings) if trained else embeddings
    launch = stage_launch(wanted, cohort, stage, fold, options=options)
    launch = replace(launch, sources=(text,))
    if asked.locked:
        table = launch.folder / FEATURE_TABLE
        plain, launch = (
            launch,
            replace(launch, configuration=launch.configuration.over(values={"data.init_args.features": table})),
        )
    if already_finished(launch):
        return
    if asked.locked:
        assert image is not None
        _write_features(plain, image, table, cache_folder(wanted.runs, cohort, FEATURES))
    if not trained:
        _embed(launch, cohort, text, settings)
    finished = train(launch, test=False)
    if not is_main_rank():
        return
    summary = f"{_summary(finished)} {caption(cohort.info)}"
    sha256 = _export(finished, cohort, text, launch.folder / ENCODER_FOLDER, STAGES[stage].title, summary)
    keep_likeness(finished, cohort, fold, launch.folder / ENCODER_FOLDER)
    done = {"encoder_sha256": sha256, "text_fingerprint": options["data.init_args.text_fingerprint"]}
    module: ClipAlignment = finished.model  # type: ignore[assignment]
    close(launch, finished, summary, done, image_model(finished, module.backbone()))


def _image_encoder(wanted: Pretraining, cohort: Cohort, fold: int | None, stage: str) -> Path | None:
    """Folder of the image encoder to start from, of the same tag where there is one; None for random weights."""
    start = str(STAGES[stage].start)
    source = ENCODERS[start].stage
    if source is None:
        return None
    weights = Path(ENCODER_FOLDER, WEIGHTS)
    tag = own_tag(wanted.runs, cohort, source, wanted.seed, fold, wanted.tag, weights)
    return exported_encoder(wanted.runs, cohort, start, wanted.seed, fold, tag)


def _image_options(image: Path | None) -> dict[str, Any]:
    if image is None:
        return {}
    return {"model.init_args.pretrained": image, "model.init_args.pretrained_sha256": weights_sha256(image)}


@dataclass(frozen=True)
class _Asked:
    """What the configuration asks for.

    Args:
        text: Which text encoder.
        text_moves: Whether it is trained along.
        locked: Whether the image encoder stays as it is.
    """

    text: TextEncoderConfig
    text_moves: bool
    locked: bool


def _asked(wanted: Pretraining, cohort: Cohort, fold: int | None, stage: str) -> _Asked:
    (files,) = STAGES[stage].files(stage, wanted.profile)
    launch = stage_launch(wanted, cohort, stage, fold, options=placeholders(files))
    cli = launch.configuration.parsed
    moves = cli.config["model.class_path"].endswith(f".{TextTowerAlignment.__name__}")
    locked = bool(cli.config["model.init_args.locked"])
    return _Asked(TextEncoderConfig.of(cli.config["text"].as_dict()), moves, locked)


def _write_features(launch: Launch, image: Path, table: Path, cache: Path) -> None:
    """Put the features of all kidneys to train or select on beside the run.

    They are those that probes and zero-shot classification read, computed once for all, and means over the phases of
    a visit.

    Args:
        launch: The run, which reads images.
        image: Folder of the image encoder.
        table: Where the table goes.
        cache: Folder of cached features.
    """
    module: AlignmentDataModule = launch.configuration.build().datamodule
    visits = [module.visits(part) for part in ("train", "val")]
    volumes = [found for part in visits for found in part.volumes]
    kidneys = np.concatenate([np.asarray(part.kidney, dtype=np.int64) for part in visits])
    features = frozen_features(load_exported(image)[0], module, [one for found in volumes for one in found], cache)
    if is_main_rank():
        owner = np.repeat(np.arange(len(volumes)), [len(found) for found in volumes])
        mean = owner_mean(features, owner, len(volumes)).astype(np.float32)
        write_features(table, module.plan.kidneys.iloc[kidneys], mean)
    wait_for_main("features of the alignment", table.is_file)


def _embed(launch: Launch, cohort: Cohort, text: Path, settings: TextEncoderConfig) -> None:
    """Put the texts of the run into the cache: excerpts to train on, reports to select on.

    The language model is loaded only if one is missing. Where all ranks begin together, each embeds a share of its own
    and then what the others have not yet: the cache takes what several of them add, and nobody waits for a rank that
    is no more.
    """
    cli = launch.configuration.build()
    datamodule: AlignmentDataModule = cli.datamodule
    missing = datamodule.cache.missing(datamodule.texts("train") + datamodule.texts("val"))
    if not missing:
        return
    say(f"Embedding {len(missing)} texts of cohort {cohort.info.name}:")
    encoder = load_text_encoder(text, base=load_source(text, settings))
    rank, ranks = cli.trainer.global_rank, cli.trainer.world_size
    with counted("texts") as show:
        for share in range(ranks):
            part = missing[(rank + share) % ranks :: ranks]
            embed_texts(encoder, part, datamodule.cache.folder.parent, progress=show)


def _summary(finished: FinishedRun) -> str:
    """What validation found, in a sentence."""
    model: ClipAlignment = finished.model  # type: ignore[assignment]
    plan = model.trainer.datamodule.plan  # type: ignore[attr-defined]
    image, text, report_id = paired(model.val_table)
    ranks = retrieval_ranks(image, text, report_id).image_to_text.cpu().numpy()
    owner = plan.kidneys["patient_id"].iloc[model.val_table.patient.cpu().numpy()]
    patient, names = pd.factorize(owner)
    recall, _ = bootstrap(recall_statistic(ranks, patient, _RECALL_AT), len(names))
    reports = int(report_id.unique().numel())
    return (
        f"Scan to report on {len(ranks)} validation kidneys of {len(names)} patients: recall@{_RECALL_AT} among "
        f"{reports} distinct reports {with_interval(*recall[:3], recall.interval)} (95 % interval over patients), "
        f"by chance {min(1.0, _RECALL_AT / reports):.3f}; the epoch was chosen on these kidneys."
    )


def _export(finished: FinishedRun, cohort: Cohort, text: Path, folder: Path, title: str, summary: str) -> str:
    """The aligned model as a folder, which is also that of its image encoder and holds its text encoder.

    Returns:
        SHA-256 of the image encoder's weights.
    """
    module: ClipAlignment = finished.model  # type: ignore[assignment]
    crop = tuple(module.trainer.datamodule.augmentation.config.crop)  # type: ignore[attr-defined]
    if isinstance(module, TextTowerAlignment):
        if module.sharded:
            module = module.unsharded(_best(folder.parent / "checkpoints"))
        seen = hand_over(folder.parent, folder / TEXT)
        save_trained(module.text_encoder.eval(), cohort, folder / TEXT, summary, seen)
    else:
        shutil.copytree(text, folder / TEXT, dirs_exist_ok=True, copy_function=copy_file)
    exported = read_text_encoder(folder / TEXT)
    recorded = {
        "fingerprint": exported.fingerprint,
        "base_fingerprint": exported.base_fingerprint,
        **exported.config.recorded(),
    }
    module.model.text_encoder = recorded
    module.model.crop = crop
    config = EncoderConfig.of(module.hparams["encoder"])
    card = encoder_card(title, cohort.info, config, module.contract, summary)
    training_data = hand_over(folder.parent, folder)
    return save_aligned(folder, module.model, f"{card}{_text_section(recorded)}", training_data)


def _best(folder: Path) -> dict[str, Any]:
    """The weights of the best checkpoint, or of the last one where no epoch had a score."""
    path = next(path for path in (folder / "best.ckpt", folder / "last.ckpt") if path.is_file())
    weights: dict[str, Any] = read_checkpoint(path)["state_dict"]
    return weights


def _text_section(recorded: dict[str, Any]) -> str:
    return f"""
## Both sides
    from lightning_modules.export.aligned import load_aligned
    model = load_aligned(folder)   # or the id of a hub repository with these files
    similarity = model.embed_image(image) @ model.embed_text(embedding).T

Text embeddings must come from the text encoder that it was aligned with: base {recorded["base_name"]}, fingerprint
{recorded["fingerprint"]}. Its adapters lie in the folder `{TEXT}`.
"""
