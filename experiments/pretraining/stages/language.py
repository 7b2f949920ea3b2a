"""Runs on a language model: where its base is, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datamodules.cohort.cohort import Cohort
from datamodules.reports.llm.models import model_source
from experiments.pretraining.stages.common import Pretraining, stage_launch
from experiments.runs.launch import Launch
from experiments.runs.suite_cli import SuiteCLI
from lightning_modules.networks.text.encoder import TextEncoderConfig


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
    settings = TextEncoderConfig.of(SuiteCLI(bare.arguments(), run=False, parse_only=True).resolved_config()["text"])
    source, name = text_source(settings)
    found = {**options, "text.base": source}
    if settings.base and not any(flag.startswith("--text.base_name") for flag in wanted.extra):
        found["text.base_name"] = name  # the profile's name is that of another base
    return stage_launch(wanted, cohort, stage, fold, config=config, options=found)
