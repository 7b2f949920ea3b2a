"""Reports by the language model as it came, which sees no image: what fluent words alone are worth."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch

from datamodules.reports.llm.models import model_source
from datamodules.writing import prompt_of
from experiments.generation.journal import in_batches
from experiments.generation.systems import WritingJob
from experiments.generation.trained import as_frame
from lightning_modules.networks.image.encoders import EncoderConfig
from lightning_modules.networks.joint.decoding import Written
from lightning_modules.networks.joint.report_writer import ReportWriter, WriterConfig
from lightning_modules.networks.text.encoder import TextEncoderConfig
from lightning_modules.networks.text.language_model import base_fingerprint, base_folder

BASE = "smollm2"
_ASKED = "You are a radiologist. Write the findings of this examination in two or three short sentences.\n"


def write(job: WritingJob) -> pd.DataFrame:
    """Ask for a report with the writer's own prompt."""
    prompts = [_ASKED + prompt_of(job.module.template, side, None) for side in job.kidneys["side"]]
    return answered(job, prompts)


def identity(job: WritingJob) -> dict[str, str]:
    """Fingerprint of the language model."""
    return {"base_sha256": base_fingerprint(base_folder(model_source(job.options.base or BASE)[0]))}


def answered(job: WritingJob, prompts: Sequence[str]) -> pd.DataFrame:
    """Answers of the whole language model, through its chat template where it has one.

    Args:
        job: The kidneys; `options.base` names the language model.
        prompts: One a kidney.
    """
    writer = language_model(job.options.base or BASE)
    asked = [chat(writer, prompt) for prompt in prompts]

    def written(places: range) -> list[Written]:
        nothing = torch.zeros(len(places), 0, writer.hidden_dim, device=writer.device)
        return writer.write(nothing, asked[places.start : places.stop], job.options.decoding)

    return as_frame(in_batches(job, written, prompts=asked))


def language_model(name: str) -> ReportWriter:
    """A language model of all layers, without adapters; its image side is never used."""
    text = TextEncoderConfig(
        base=model_source(name)[0], base_name="", quantization="none", adapter=False, bidirectional=False
    )
    return ReportWriter(EncoderConfig(depth=10, width=8), text, WriterConfig(image_tokens=1))


def chat(writer: ReportWriter, prompt: str) -> str:
    """The prompt as the model's chat template wants it."""
    if getattr(writer.tokenizer, "chat_template", None) is None:
        return prompt
    turns = [{"role": "user", "content": prompt}]
    text: str = writer.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return text
