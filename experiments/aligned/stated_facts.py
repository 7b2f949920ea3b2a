"""Scans against texts without a shared space: how likely the attributes of a text are, by what stage 1 reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from datamodules.attributes import AttributeDataModule
from datamodules.base import VolumeDataModule
from datamodules.batch import MISSING
from datamodules.cohort.cohort import Cohort
from datamodules.reports.reader.matching import PRESENCE
from experiments.aligned.shared_space import Samples
from experiments.aligned.zero_shot.prompt_sets import PromptSet, read_descriptions
from experiments.encoders.attribute_reader import AttributeReader, attribute_reader
from experiments.encoders.features import frozen_features
from experiments.registry import ENCODERS
from experiments.runs.pretrained import Pretrained
from experiments.statistics.means import owner_mean

_LEAST = 1e-4
"""Least probability of a class; a head that is certain and wrong shall not outweigh all others."""


def own_reader(
    cohort: Cohort, encoder: str, module: VolumeDataModule, runs: Path, origin: Pretrained, fold: int | None
) -> AttributeReader | None:
    """What stage 1 reads out of the scans that a DataModule tests.

    Args:
        cohort: The cohort.
        encoder: Aligned encoder of the registry beside which it stands.
        module: The tested patients.
        runs: Folder of all runs.
        origin: The pretraining.
        fold: Fold of it, for a cohort with folds.

    Returns:
        The reader; None where stage 1 has none, or where a published encoder reads volumes of its own, which stage 1
        does not.

    Raises:
        DataError: if it was trained on somebody who is tested.
        ModelError: if it expects another preprocessing.
    """
    if ENCODERS[encoder].release:
        return None
    reader = attribute_reader(cohort, None, runs, origin, fold, module.wanted)
    if reader is not None:
        reader.trained_on.refuse_seen(module.identity, "The attribute encoder", ("test",))
    return reader


def read_scans(
    reader: AttributeReader, module: AttributeDataModule, samples: Samples, kidneys: Sequence[int], features: Path
) -> np.ndarray:
    """Log-likelihood ratios of every class of every attribute, by the scan against the training kidneys.

    With `read_reports` the dot product is sum_a log p(value_a | scan) / p(value_a) over the attributes that a report
    states, the naive Bayes odds that it is of this scan.

    Args:
        reader: Encoder and heads of stage 1.
        module: Kidneys with what their reports state.
        samples: Their volumes to read, as of `embed_part`.
        kidneys: Rows of its kidney table, distinct; volumes of others are left out.
        features: Folder of cached features.

    Returns:
        float32 [kidneys, classes of all attributes], in the order of the DataModule; 0 where there is no head.
    """
    row = pd.Index(kidneys).get_indexer(pd.Index(samples.kidney))
    known = row >= 0
    scores = class_scores(reader, module, samples.position[known].tolist(), features)
    shares = _training_shares(module)
    ratios = []
    for name, values in module.class_counts.items():
        if name not in scores:
            ratios.append(np.zeros((len(kidneys), len(values))))
            continue
        columns = [reader.heads.classes[name].index(value) for value in values]
        mean = owner_mean(scores[name][:, columns], row[known], len(kidneys))
        ratios.append(np.log(np.clip(mean, _LEAST, 1)) - np.log(np.clip(shares[name], _LEAST, 1)))
    return np.concatenate(ratios, axis=1).astype(np.float32)


def read_reports(module: AttributeDataModule, codes: np.ndarray) -> np.ndarray:
    """What reports state, as a 1 for every stated class, float32 [kidneys, classes of all attributes].

    Args:
        module: DataModule that the attributes are of.
        codes: int64 [kidneys, A], -100 where not stated.
    """
    parts = []
    for column, values in enumerate(module.class_counts.values()):
        parts.append((codes[:, column, None] == np.arange(len(values))) & (codes[:, column, None] != MISSING))
    return np.concatenate(parts, axis=1).astype(np.float32)


def fact_scores(
    reader: AttributeReader, module: VolumeDataModule, positions: Sequence[int], prompts: PromptSet, features: Path
) -> np.ndarray | None:
    """Zero-shot scores by what the prompts state: the mean over a class's descriptions of sum_a log p(value_a | scan).

    Args:
        reader: Encoder and heads of stage 1.
        module: Whose volumes are read.
        positions: Positions of volumes in its volume set.
        prompts: Prompts of the task, in the order of its classes.
        features: Folder of cached features.

    Returns:
        float64 [positions, classes]; None where a class has no description of which an attribute is read.
    """
    stated = stated_values(prompts, reader.heads.classes)
    if not all(any(facts for facts in own) for own in stated):
        return None
    scores = class_scores(reader, module, positions, features)
    logs = {name: np.log(np.clip(values, _LEAST, 1)) for name, values in scores.items()}
    columns = []
    for own in stated:
        sums = [
            np.sum([logs[name][:, reader.heads.classes[name].index(value)] for name, value in facts], axis=0)
            for facts in own
            if facts
        ]
        columns.append(np.mean(sums, axis=0))
    return np.stack(columns, axis=1).astype(np.float64)


def stated_values(prompts: PromptSet, classes: Mapping[str, Sequence[str]]) -> list[list[list[tuple[str, str]]]]:
    """What the descriptions of every class state: attributes with their values, of those that stage 1 reads.

    Whether there is a lesion is left out: the task is asked of one.

    Args:
        prompts: Prompts of a task.
        classes: Classes by attribute that are read.
    """
    return [
        [
            [
                (entry.attribute, entry.value)
                for entry in found
                if entry.attribute != PRESENCE and entry.value in classes.get(entry.attribute, ())
            ]
            for found in read_descriptions(entry.descriptions)
        ]
        for entry in prompts.classes
    ]


def class_scores(
    reader: AttributeReader, module: VolumeDataModule, positions: Sequence[int], features: Path
) -> dict[str, np.ndarray]:
    """Scores of the classes [positions, classes] by attribute; an encoder that joins phases was told none.

    Args:
        reader: Encoder and heads of stage 1.
        module: Whose volumes are read.
        positions: Positions of volumes in its volume set.
        features: Folder of cached features.
    """
    feature = torch.from_numpy(frozen_features(reader.encoder, module, positions, features))
    if module.phases == "joined":
        return {name: values.numpy() for name, values in reader.heads.scores(feature).items()}
    phase = module.plan.volumes.index.set_index("position")["phase"].loc[list(positions)].astype(str).to_numpy()
    found: dict[str, np.ndarray] = {}
    for value in np.unique(phase):
        chosen = phase == value
        for name, values in reader.heads.scores(feature[torch.from_numpy(chosen)], str(value)).items():
            found.setdefault(name, np.zeros((len(feature), values.shape[1])))[chosen] = values.numpy()
    return found


def _training_shares(module: AttributeDataModule) -> dict[str, np.ndarray]:
    """Share of every class among the training kidneys of which the attribute is stated."""
    return {
        name: np.array(list(counts.values()), dtype=np.float64) / max(1, sum(counts.values()))
        for name, counts in module.class_counts.items()
    }
