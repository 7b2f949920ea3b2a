"""Reports by the trained report writer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from datamodules.errors import DataError
from datamodules.reports.llm.models import model_source
from datamodules.writing import prompt_of
from experiments.generation.journal import in_batches
from experiments.generation.systems import WritingJob
from experiments.runs.folders import report_writer_folder
from experiments.runs.run_data import read_trained_on
from lightning_modules.core.contracts import differing_fields
from lightning_modules.core.errors import ModelError
from lightning_modules.export.writer import load_report_writer, read_report_writer
from lightning_modules.networks.joint.decoding import Written
from lightning_modules.networks.joint.report_writer import ReportWriter


def write(job: WritingJob) -> pd.DataFrame:
    """Write the report of every kidney from its own images."""
    return written_from(job, job.tested_rows)


def identity(job: WritingJob) -> dict[str, str]:
    """Hash of the trained writer."""
    folder = report_writer_folder(job.options.runs, job.cohort, job.options.seed, job.options.fold, job.options.tag)
    return {"writer_sha256": "" if folder is None else read_report_writer(folder).sha256}


def written_from(job: WritingJob, rows: Sequence[int]) -> pd.DataFrame:
    """Write the report of every kidney from the images of some kidney.

    Args:
        job: The kidneys whose reports are to be written; side and prompt are theirs.
        rows: Row of the plan's kidneys whose images are shown, one a kidney.

    Raises:
        DataError: if the report stage was not run yet.
        ModelError: if the writer was trained on other preprocessing.
    """
    writer = load_writer(job)

    def written(places: range) -> list[Written]:
        images, owner, phases = job.images([rows[place] for place in places], writer.image_encoder)
        tokens = kidney_tokens(writer, images, owner, len(places))
        sides = job.kidneys["side"].iloc[places.start : places.stop]
        prompts = [
            prompt_of(job.module.template, side, _phase(phases, owner, place)) for place, side in enumerate(sides)
        ]
        return writer.write(tokens, prompts, job.options.decoding)

    return as_frame(in_batches(job, written))


def as_frame(reports: Sequence[Written]) -> pd.DataFrame:
    """Written reports as the rows that a system returns."""
    return pd.DataFrame(
        {
            "text": [report.text for report in reports],
            "tokens": [len(report.tokens) for report in reports],
            "mean_logprob": [float(np.mean(report.logprobs)) for report in reports],
            "truncated": [report.truncated for report in reports],
            "token_list": [report.tokens for report in reports],
            "logprobs": [report.logprobs for report in reports],
        }
    )


def load_writer(job: WritingJob) -> ReportWriter:
    """The report writer of the cohort.

    Raises:
        DataError: if the report stage was not run yet, or on somebody who is tested.
        ModelError: if it was trained on other preprocessing.
    """
    options = job.options
    folder = report_writer_folder(options.runs, job.cohort, options.seed, options.fold, options.tag)
    if folder is None:
        raise DataError(
            f"Cohort {job.cohort.info.name} has no report writer with pretraining seed {options.seed}; run "
            f"`make pretrain STAGES=report{f' TAG={options.tag}' if options.tag else ''}` first."
        )
    read_trained_on(folder).refuse_seen(job.module.identity, "The report writer", ("test",))
    name = options.base or read_report_writer(folder).text.base_name
    writer, found = load_report_writer(folder, model_source(name)[0])
    differing = differing_fields(found.contract, job.module.contract)
    if differing:
        raise ModelError(
            f"The report writer expects another preprocessing ({', '.join(name for name, _, _ in differing)}); choose "
            "the PROFILE that it was trained with."
        )
    return writer


@torch.inference_mode()
def kidney_tokens(writer: ReportWriter, images: torch.Tensor, owner: np.ndarray, kidneys: int) -> torch.Tensor:
    """Image tokens of kidneys, float [kidneys, K, hidden]: the mean over the volumes of each."""
    tokens = writer.image_tokens(images.to(writer.device))
    place = torch.from_numpy(owner).to(tokens.device)
    total = tokens.new_zeros(kidneys, *tokens.shape[1:]).index_add(0, place, tokens)
    count = torch.bincount(place, minlength=kidneys).clamp_min(1)
    return total / count[:, None, None]


def _phase(phases: Sequence[str | None], owner: np.ndarray, place: int) -> str | None:
    """The contrast phase of a kidney, None where several were seen."""
    own = {phase for phase, whose in zip(phases, owner, strict=True) if whose == place}
    return own.pop() if len(own) == 1 else None
