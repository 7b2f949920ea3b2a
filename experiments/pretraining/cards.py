"""Model cards of what the suite exports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from datamodules.cohort.cohort import CohortInfo
from datamodules.cohort.columns import PHASES
from experiments.runs.folders import ENCODER_FOLDER, WRITER_FOLDER
from experiments.runs.tracking import git_commit
from lightning_modules.networks.image.encoders import NETWORKS, EncoderConfig, joins_phases
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
    joined = joins_phases(NETWORKS[config.network])
    channels = f"{len(PHASES)} contrast phases ({', '.join(PHASES)})" if joined else "1 contrast phase"
    return f"""# {title}

Research use only; not a medical device.

Trained on cohort {info.name}: {info.source} Intensities are {info.intensity}.
Code: commit {git_commit()}.

## Result
{summary}

## Input
A kidney region [B, C, D, H, W] with C = {channels}: HU windowed to [0, 1] on the grid of this preprocessing contract
(D, H, W order).

{preprocessing}

## Network
{network}

## Load
    from renal_vlm import load_encoder

    encoder = load_encoder("{ENCODER_FOLDER}")  # the folder of this card
    features = encoder.encode("scan.nii.gz", "kidneys.nii.gz")

The features are float32, by side: left, right. The mask shows where the kidneys are; `encode` has more options. For a
tensor of the kind above take the network alone:

    from renal_vlm import load_exported

    network, exported = load_exported("{ENCODER_FOLDER}")
    features = network(image)
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
    from renal_vlm import load_text_encoder

    encoder = load_text_encoder("{ENCODER_FOLDER}", base="<folder of {config.base_name}>")  # the folder of this card
    embeddings = encoder(**encoder.tokenize(texts))  # float32 [texts, features], not normalised
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
    from renal_vlm import Decoding, load_report_writer

    writer, exported = load_report_writer("{WRITER_FOLDER}", base="<folder of {text.base_name}>")
    reports = writer.write(writer.image_tokens(image), prompts, Decoding())
"""
