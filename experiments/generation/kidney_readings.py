"""What stage 1 reads out of kidneys: scores of its attribute heads, and all that its regions say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from datamodules.errors import DataError
from experiments.aligned.stated_facts import class_scores
from experiments.encoders.attribute_reader import AttributeReader, attribute_reader
from experiments.encoders.features import frozen_features, weights_hash
from experiments.generation.systems import WritingJob
from experiments.runs.folders import FEATURES, cache_folder
from experiments.runs.pretrained import Pretrained
from experiments.statistics.means import owner_mean
from lightning_modules.networks.image.regions import RegionEncoder


class RegionReadings(nn.Module):
    """A region encoder that gives its readings, from which the one vector of its feature is made.

    Args:
        encoder: The encoder.
    """

    joins_phases = True

    def __init__(self, encoder: RegionEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Readings float [B, K] of images [B, 4, D, H, W]."""
        return self.encoder.see(image).readings


def stage1_reader(job: WritingJob) -> AttributeReader:
    """Encoder and heads of stage 1 of the cohort.

    Raises:
        DataError: if stage 1 was not run yet, or has seen somebody who is tested.
    """
    options = job.options
    reader = attribute_reader(
        job.cohort,
        None,
        options.runs,
        Pretrained(options.seed, options.tag),
        options.fold,
        job.module.plan.volumes.contract,
    )
    if reader is None:
        raise DataError(
            f"Cohort {job.cohort.info.name} has no attribute heads with pretraining seed {options.seed}; run `make "
            "pretrain STAGES=image` first."
        )
    reader.trained_on.refuse_seen(job.module.identity, "The attribute encoder", ("test",))
    return reader


def identity(job: WritingJob) -> dict[str, str]:
    """Hash of the weights of stage 1 with its heads."""
    reader = stage1_reader(job)
    return {"stage1": weights_hash(nn.ModuleList([reader.encoder, reader.heads]))}


def head_scores(job: WritingJob, reader: AttributeReader, rows: Sequence[int]) -> dict[str, np.ndarray]:
    """Scores of the attribute heads, averaged over the volumes of each kidney.

    Args:
        job: The kidneys.
        reader: As `stage1_reader` gives it.
        rows: Rows of the plan's kidneys.

    Returns:
        float64 [rows, classes] by attribute, in the order of the heads' classes.
    """
    positions, owner = job.volumes(rows)
    scores = class_scores(reader, job.module, positions, cache_folder(job.options.runs, job.cohort, FEATURES))
    return {name: owner_mean(values, owner, len(rows)) for name, values in scores.items()}


def region_readings(job: WritingJob, reader: AttributeReader, rows: Sequence[int]) -> np.ndarray:
    """What the encoder measured and learned of the regions of each kidney, float64 [rows, K].

    Of an encoder without regions its feature.

    Args:
        job: The kidneys.
        reader: As `stage1_reader` gives it.
        rows: Rows of the plan's kidneys.
    """
    positions, owner = job.volumes(rows)
    network = RegionReadings(reader.encoder) if isinstance(reader.encoder, RegionEncoder) else reader.encoder
    folder = cache_folder(job.options.runs, job.cohort, FEATURES)
    return owner_mean(frozen_features(network, job.module, positions, folder), owner, len(rows))
