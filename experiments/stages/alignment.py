"""Stage 3: image encoder and text encoder in one space."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.alignment_data import AlignmentDataModule
from datamodules.attributes.models import model_source
from datamodules.cohort import Cohort
from datamodules.errors import DataError
from datamodules.files import read_json
from experiments.attributes.extract import with_attributes
from experiments.cards import encoder_card
from experiments.console import counted, is_main_rank, say
from experiments.encoders import ENCODER_FOLDER, exported_encoder
from experiments.evaluation import caption
from experiments.launch import Finished, Launch, train
from experiments.retrieval.scores import recall_statistic
from experiments.shared_space import EMBEDDINGS
from experiments.stages.common import Pretraining, already_finished, close, stage_launch
from experiments.stages.text import text_encoder_folder
from experiments.statistics.bootstrap import bootstrap
from experiments.suite_cli import SuiteCLI
from experiments.text.embeddings import embed_texts
from lightning_modules.alignment import ClipAlignment, paired
from lightning_modules.metrics.retrieval import retrieval_ranks
from lightning_modules.networks.aligned import save_aligned
from lightning_modules.networks.encoders import EncoderConfig
from lightning_modules.networks.export import weights_sha256
from lightning_modules.networks.text_export import CONFIG, load_text_encoder, read_text_encoder

STAGE = "alignment"
TITLE = "Image encoder and text embeddings, aligned"
_RECALL_AT = 5


def run(wanted: Pretraining, cohort: Cohort, fold: int | None) -> None:
    """Embed the reports, align the image encoder of stage 1 with them, and export the aligned model.

    Args:
        wanted: What was asked for.
        cohort: The cohort.
        fold: Fold that will be tested; its kidneys are not trained on.

    Raises:
        DataError: if stage 1 or 2 was not run yet, or the folder holds another configuration.
        ModelError: if the text encoder's base cannot be loaded.
    """
    cohort = with_attributes(cohort, wanted.data)
    image = exported_encoder(wanted.runs, cohort, "stage1", wanted.seed, fold)
    text = text_encoder_folder(wanted.runs, cohort, wanted.seed, fold)
    if image is None or text is None:
        raise DataError(
            f"Cohort {cohort.info.name} has no text encoder with pretraining seed {wanted.seed}"
            f"{'' if fold is None else f', fold {fold}'}; run `make pretrain STAGES=text` first."
        )
    embeddings = wanted.runs / "renal" / cohort.info.name / EMBEDDINGS
    options = {
        "model.init_args.pretrained": image,
        "model.init_args.pretrained_sha256": weights_sha256(image),
        "data.init_args.embeddings": embeddings,
        "data.init_args.text_fingerprint": read_text_encoder(text).fingerprint,
        "data.init_args.text_dim": int(read_json(text / CONFIG)["feature_dim"]),
    }
    launch = stage_launch(wanted, cohort, STAGE, fold, encoder="stage1", options=options)
    if already_finished(launch):
        return
    _embed(launch, cohort, text)
    finished = train(launch, test=False)
    if not is_main_rank():
        return
    summary = f"{_summary(finished)} {caption(cohort.info)}"
    sha256 = _export(finished, cohort, text, launch.folder / ENCODER_FOLDER, summary)
    done = {"encoder_sha256": sha256, "text_fingerprint": options["data.init_args.text_fingerprint"]}
    close(launch, finished, summary, done, ENCODER_FOLDER)


def _embed(launch: Launch, cohort: Cohort, text: Path) -> None:
    """Put the texts of the run into the cache: those trained on with all their wordings, those selected on as they are.

    The language model is loaded only if one is missing. Where all ranks begin together, each embeds: the cache takes
    what several of them add.
    """
    cli = SuiteCLI(launch.arguments(), run=False)
    datamodule: AlignmentDataModule = cli.datamodule
    missing = datamodule.cache.missing(datamodule.texts("train") + datamodule.texts("val"))
    if not missing:
        return
    say(f"Embedding {len(missing)} texts of cohort {cohort.info.name} with the text encoder of stage 2:")
    named = cli.config["text.base"] or read_text_encoder(text).config.base_name
    encoder = load_text_encoder(text, base=model_source(str(named))[0])
    with counted("texts") as show:
        embed_texts(encoder, missing, datamodule.cache.folder.parent, progress=show)


def _summary(finished: Finished) -> str:
    """What validation found, in a sentence."""
    model: ClipAlignment = finished.model  # type: ignore[assignment]
    plan = model.trainer.datamodule.plan  # type: ignore[attr-defined]
    image, text, report_id = paired(model.val_table)
    ranks = retrieval_ranks(image, text, report_id).image_to_text.cpu().numpy()
    owner = plan.kidneys["patient_id"].iloc[model.val_table.patient.cpu().numpy()]
    patient, names = pd.factorize(owner)
    recall, _ = bootstrap(partial(recall_statistic, ranks, patient, len(names), _RECALL_AT), len(names))
    reports = int(report_id.unique().numel())
    return (
        f"Scan to report on {len(ranks)} validation kidneys of {len(names)} patients: recall@{_RECALL_AT} among "
        f"{reports} distinct reports {recall.value:.3f} (95 % interval over patients {recall.low:.3f} to "
        f"{recall.high:.3f}), by chance {min(1.0, _RECALL_AT / reports):.3f}; the epoch was chosen on these kidneys."
    )


def _export(finished: Finished, cohort: Cohort, text: Path, folder: Path, summary: str) -> str:
    """The aligned model as a folder, which is also that of its image encoder.

    Returns:
        SHA-256 of the image encoder's weights.
    """
    module: ClipAlignment = finished.model  # type: ignore[assignment]
    exported = read_text_encoder(text)
    recorded = {
        "fingerprint": exported.fingerprint,
        "base_fingerprint": exported.base_fingerprint,
        **exported.config.recorded(),
    }
    module.model.text_encoder = recorded
    config = EncoderConfig.of(module.hparams["encoder"])
    card = encoder_card(TITLE, cohort.info, config, module.contract, summary)
    return save_aligned(folder, module.model, f"{card}{_text_section(recorded)}")


def _text_section(recorded: dict[str, Any]) -> str:
    return f"""
## Both sides
    from lightning_modules.networks.aligned import AlignedModel
    model = AlignedModel.from_pretrained(folder)   # or the id of a hub repository with these files
    similarity = model.embed_image(image) @ model.embed_text(embedding).T

Text embeddings must come from the text encoder that it was aligned with: base {recorded["base_name"]}, fingerprint
{recorded["fingerprint"]}.
"""
