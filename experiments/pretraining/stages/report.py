"""The report writer: a projector, then adapters, on the frozen encoder of the alignment and a frozen language model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from datamodules.cohort.cohort import Cohort, CohortInfo
from experiments.cohorts.attributes import with_attributes
from experiments.encoders.exported import exported_encoder
from experiments.pretraining.cards import writer_card
from experiments.pretraining.stages.common import Pretraining, close, seen
from experiments.pretraining.stages.language import language_launch
from experiments.runs.console import say
from experiments.runs.folders import WRITER_FOLDER, WRITER_PARTS
from experiments.runs.launch import Launch, check_finished, read_done, train
from experiments.runs.logged_model import ExportedModel, writer_signature
from experiments.runs.run_data import hand_over
from experiments.scores.results_table import caption, with_interval
from experiments.statistics.bootstrap import bootstrap, mean_of
from lightning_modules.core.distributed import is_main_rank, wait_for_all_ranks
from lightning_modules.export.image import weights_sha256
from lightning_modules.export.writer import save_report_writer
from lightning_modules.pretrain.reports import ReportGeneration

STAGE = "report"


def run(wanted: Pretraining, cohort: Cohort, fold: int | None) -> None:
    """Train the parts in order, each a run of its own that is skipped when it is finished.

    The last one's report writer is that of the stage: see `experiments.runs.folders`.

    Raises:
        DataError: if the alignment was not run yet, or a folder holds another configuration.
    """
    cohort = with_attributes(cohort, wanted.data)
    encoder = exported_encoder(wanted.runs, cohort, "aligned", wanted.seed, fold)
    assert encoder is not None
    before: Launch | None = None
    for name, title in WRITER_PARTS.items():
        launch = _launch(wanted, cohort, fold, name, encoder, before)
        if check_finished(launch):
            say(f"Report writer, {title}, is finished already. {read_done(launch.folder, 'summary')['summary']}")
        else:
            say(f"Report writer, {title}:")
            _train(launch, cohort.info, title)
            wait_for_all_ranks()
        before = launch


def _launch(
    wanted: Pretraining, cohort: Cohort, fold: int | None, name: str, encoder: Path, before: Launch | None
) -> Launch:
    """The run of one part."""
    options: dict[str, Any] = {
        "model.init_args.pretrained": encoder,
        "model.init_args.pretrained_sha256": weights_sha256(encoder),
    }
    if before is not None:
        options |= {
            "model.init_args.start": before.folder / WRITER_FOLDER,
            "model.init_args.start_sha256": read_done(before.folder, "writer_sha256")["writer_sha256"],
        }
    return language_launch(wanted, cohort, STAGE, fold, config=name, options=options)


def _train(launch: Launch, info: CohortInfo, title: str) -> None:
    finished = train(launch, test=False)
    if not is_main_rank():
        return
    model: ReportGeneration = finished.model  # type: ignore[assignment]
    summary = f"{_summary(model)} {caption(info)}"
    writer = model.writer.eval()
    card = writer_card(f"Report writer, {title}", info, writer.text, writer.config, model.contract, summary)
    export = launch.folder / WRITER_FOLDER
    training_data = hand_over(launch.folder, export)
    sha256 = save_report_writer(
        export, writer, model.encoder_config, model.contract, model.origin(), card, training_data
    )
    signature = writer_signature(seen(finished, writer.image_encoder))
    exported = ExportedModel(WRITER_FOLDER, "load_report_writer", signature)
    close(launch, finished, summary, {"writer_sha256": sha256}, exported)


def _summary(model: ReportGeneration) -> str:
    """What validation found, in a sentence."""
    rows = model.val_rows.numpy()
    loss, _ = bootstrap(mean_of(rows[:, 0] / rows[:, 1], 0.0, np.inf), len(rows))
    return (
        f"Validation loss {with_interval(*loss[:3], loss.interval)} nats a token (95 % interval over reports), "
        f"n {len(rows)} reports; the epoch was chosen on them."
    )
