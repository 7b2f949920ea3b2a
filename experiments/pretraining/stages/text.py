"""Stage 2: a causal language model becomes a radiology text encoder, by up to three objectives in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from datamodules.cohort.cohort import Cohort, CohortInfo
from experiments.cohorts.attributes import with_attributes
from experiments.pretraining.cards import text_card
from experiments.pretraining.stages.common import Pretraining, close
from experiments.pretraining.stages.language import language_launch
from experiments.registry import choose
from experiments.runs.console import say
from experiments.runs.folders import ENCODER_FOLDER, OBJECTIVES
from experiments.runs.launch import Launch, check_finished, read_done, train
from experiments.runs.logged_model import ExportedModel, text_signature
from experiments.runs.run_data import hand_over
from experiments.scores.results_table import caption, with_interval
from experiments.statistics.bootstrap import bootstrap, ratio_of
from experiments.statistics.estimate import Estimate
from lightning_modules.core.distributed import is_main_rank, wait_for_all_ranks
from lightning_modules.export.text import save_text_encoder
from lightning_modules.pretrain.text_adaptation import TextAdaptation

STAGE = "text"


def run(wanted: Pretraining, cohort: Cohort, fold: int | None, objectives: Sequence[str] = tuple(OBJECTIVES)) -> None:
    """Train the objectives in order, each a run of its own that is skipped when it is finished.

    The last one's text encoder is that of the stage: see `experiments.runs.folders`.

    Args:
        wanted: What was asked for.
        cohort: The cohort.
        fold: Fold that will be tested; its reports are not seen.
        objectives: Objectives to train, in the order of `OBJECTIVES`.

    Raises:
        DataError: if the base or the reports are not there, or a folder holds another configuration.
    """
    for name in objectives:
        choose("objective", name, dict(OBJECTIVES))
    if "attribute_contrast" in objectives:
        cohort = with_attributes(cohort, wanted.data)
    before: Launch | None = None
    for name in (name for name in OBJECTIVES if name in objectives):
        launch = _launch(wanted, cohort, fold, name, before)
        if check_finished(launch):
            say(
                f"{OBJECTIVES[name].capitalize()} is finished already. {read_done(launch.folder, 'summary')['summary']}"
            )
        else:
            say(f"{OBJECTIVES[name].capitalize()}:")
            _train(launch, cohort.info, name)
            wait_for_all_ranks()  # the next objective starts from what rank 0 writes after training
        before = launch


def _launch(wanted: Pretraining, cohort: Cohort, fold: int | None, name: str, before: Launch | None) -> Launch:
    """The run of one objective."""
    options: dict[str, Any] = {}
    if before is not None:
        options = {
            "model.init_args.pretrained": before.folder / ENCODER_FOLDER,
            "model.init_args.pretrained_sha256": read_done(before.folder, "encoder_sha256")["encoder_sha256"],
        }
    return language_launch(wanted, cohort, STAGE, fold, config=name, options=options)


def _train(launch: Launch, info: CohortInfo, name: str) -> None:
    finished = train(launch, test=False)
    if not is_main_rank():
        return
    model: TextAdaptation = finished.model  # type: ignore[assignment]
    reached, figures = _summary(model, name)
    summary = f"{reached} {caption(info)}"
    encoder = model.encoder.eval()
    card = text_card(f"Text encoder, {OBJECTIVES[name]}", info, encoder.config, encoder.base_fingerprint, summary)
    export = launch.folder / ENCODER_FOLDER
    sha256 = save_text_encoder(export, encoder, card, hand_over(launch.folder, export))
    done = {"encoder_sha256": sha256, "encoder_fingerprint": encoder.fingerprint(), **figures}
    close(
        launch,
        finished,
        summary,
        done,
        ExportedModel(ENCODER_FOLDER, "load_text_encoder", text_signature(encoder.feature_dim)),
    )


def _summary(model: TextAdaptation, name: str) -> tuple[str, dict[str, float]]:
    """What an objective reached on the validation texts, in a sentence and in figures; the start is that before it."""
    before, after = model.start_rows.numpy(), model.val_rows.numpy()
    start, _ = bootstrap(ratio_of(before[:, 0], before[:, 1], np.inf), len(before))
    loss, _ = bootstrap(ratio_of(after[:, 0], after[:, 1], np.inf), len(after))
    figures = {"start_loss": start.value, "val_loss": loss.value, "texts": float(len(after))}
    text = f"Validation loss {_shown(start)} before and {_shown(loss)} after"
    if before.shape[1] > 2:
        earlier, _ = bootstrap(ratio_of(before[:, 2], before[:, 1]), len(before))
        accuracy, _ = bootstrap(ratio_of(after[:, 2], after[:, 1]), len(after))
        figures |= {f"start_{model.share}": earlier.value, model.share: accuracy.value}
        what = (
            f"accuracy of {int(after[:, 1].sum())} masked tokens"
            if name == "mntp"
            else "share of texts nearer to their paraphrase than to every text with one fact changed"
        )
        text += f", {what} {_shown(earlier)} before and {_shown(accuracy)} after"
    return f"{text} (95 % interval over texts), n {len(after)} texts; the epoch was chosen on them.", figures


def _shown(estimate: Estimate) -> str:
    return with_interval(*estimate[:3], estimate.interval)
