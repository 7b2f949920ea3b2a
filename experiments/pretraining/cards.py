"""Model cards of what the suite exports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from datamodules.cohort.cohort import CohortInfo
from experiments.runs.tracking import git_commit
from lightning_modules.networks.image.encoders import EncoderConfig
from lightning_modules.networks.joint.report_writer import WriterConfig
from lightning_modules.networks.text.encoder import TextEncoderConfig


def encoder_card(title: str, info: CohortInfo, config: EncoderConfig, contract: Mapping[str, Any], summary: str) -> str:
    """The model card of an image encoder in Markdown.

    Args:
        title: What was trained.
        info: The cohort.
        config: The network.
        contract: The preprocessing that an image must have gone through.
        summary: What it reached.
    """
    network = "\n".join(f"- {name}: {value}" for name, value in asdict(config).items())
    preprocessing = "\n".join(f"- {name}: {value}" for name, value in contract.items())
    return f"""# {title}

Research use only; not a medical device.

Trained on cohort {info.name}: {info.source} Intensities are {info.intensity}.
Code: commit {git_commit()}.

## Result
{summary}

## Input
A kidney region [B, 1, D, H, W]: HU windowed to [0, 1] on the grid of this preprocessing contract (D, H, W order).

{preprocessing}

## Network
{network}

## Load
    from lightning_modules.export.image import load_exported
    encoder, exported = load_exported(folder)   # features = encoder(image)
"""


def text_card(title: str, info: CohortInfo, config: TextEncoderConfig, base_fingerprint: str, summary: str) -> str:
    """The model card of a text encoder in Markdown.

    Args:
        title: What was trained.
        info: The cohort.
        config: How the base was adapted.
        base_fingerprint: Hash of the base that the adapters belong to.
        summary: What it reached.
    """
    settings = "\n".join(f"- {name}: {value}" for name, value in config.recorded().items())
    return f"""---
library_name: peft
tags: [text-embedding, lora]
---
# {title}

Research use only; not a medical device. Embeddings may hold what the reports hold: treat them like reports.

Adapters of {config.base_name} (fingerprint {base_fingerprint}, quantisation {config.quantization}); on another base or
quantisation they give other embeddings and are refused. The licence of the base holds for its weights.

Trained on the reports of cohort {info.name}: {info.source}
Code: commit {git_commit()}.

## Result
{summary}

## Input
The text of one kidney, at most {config.max_length} tokens.

## Settings
{settings}

## Load
    from lightning_modules.export.text import load_text_encoder
    encoder = load_text_encoder(folder, base="<folder of {config.base_name}>")
    embeddings = encoder(**encoder.tokenize(texts))   # float32 [texts, features], not normalised
"""


def writer_card(
    title: str,
    info: CohortInfo,
    text: TextEncoderConfig,
    config: WriterConfig,
    contract: Mapping[str, Any],
    summary: str,
) -> str:
    """The model card of a report writer in Markdown.

    Args:
        title: What was trained.
        info: The cohort.
        text: The language model and how it was adapted.
        config: How the image enters.
        contract: The preprocessing that an image must have gone through.
        summary: What it reached.
    """
    settings = "\n".join(f"- {name}: {value}" for name, value in {**text.recorded(), **asdict(config)}.items())
    preprocessing = "\n".join(f"- {name}: {value}" for name, value in contract.items())
    return f"""# {title}

Research use only; not a medical device. What it writes may be wrong in every word: it drafts nothing that a patient is
treated by.

Trained on cohort {info.name}: {info.source} Intensities are {info.intensity}.
Code: commit {git_commit()}.

## Result
{summary}

## Input
A kidney region [B, 1, D, H, W]: HU windowed to [0, 1] on the grid of this preprocessing contract (D, H, W order).

{preprocessing}

## Settings
{settings}

## Load
    from lightning_modules.export.writer import load_report_writer
    writer, exported = load_report_writer(folder, base="<folder of {text.base_name}>")
    reports = writer.write(writer.image_tokens(image), prompts, Decoding())
"""
