"""Model cards of what the suite exports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from datamodules.cohort import CohortInfo
from experiments.tracking import git_commit
from lightning_modules.networks.encoders import EncoderConfig


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
    from lightning_modules.networks.export import load_exported
    encoder, exported = load_exported(folder)   # features = encoder(image)
"""
