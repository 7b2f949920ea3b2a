"""Features of patients for the models that are fitted on them: columns, radiomics, frozen features, or several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from torch import nn

from datamodules.errors import DataError
from datamodules.tasks import RoiDataModule
from experiments.encoders.clinical_features import check_columns, table_features
from experiments.encoders.features import patient_features
from experiments.encoders.radiomics.cache import radiomics_table
from experiments.runs.baseline import BaselineConfig, RadiomicsSettings
from experiments.runs.console import say
from experiments.statistics.means import owner_mean

Parts = list[tuple[np.ndarray, np.ndarray]]
COMPONENTS = 16
"""Principal components that stand for the features of an encoder beside radiomics."""


def model_features(
    baseline: BaselineConfig, network: nn.Module, module: RoiDataModule, parts: Sequence[str], cache: Path
) -> Parts:
    """What a model is fitted on; whatever is learned from patients is learned from those of the first part.

    Args:
        baseline: Columns and radiomics that are read.
        network: Encoder; one without weights has no features.
        module: DataModule of a task.
        parts: train, val, test.
        cache: Folder of cached features.

    Returns:
        For each part rows of the patient table int64 [N], rising, and float64 [N, F].

    Raises:
        DataError: if a column or a mask is absent, or the label is a class of what is read.
    """
    found = []
    if baseline.columns:
        found.append(table_features(module, baseline.columns, parts))
    if baseline.radiomics is not None:
        check_columns(module.label, baseline.columns, radiomics=True)
        found.append(patient_radiomics(module, parts, cache, baseline.radiomics))
    if any(True for _ in network.parameters()):
        encoded = patient_features(network, module, parts, cache)
        found.append(reduced(encoded, module.seed) if found else encoded)
    return [_beside([block[number] for block in found]) for number in range(len(parts))]


def _beside(blocks: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    patient = blocks[0][0]
    if any(not np.array_equal(patient, other) for other, _ in blocks):
        raise AssertionError("blocks of features are of different patients")
    return patient, np.concatenate([feature for _, feature in blocks], axis=1) if len(patient) else blocks[0][1]


def reduced(parts: Parts, seed: int) -> Parts:
    """Principal components of standardised features, both learned from the first part.

    Args:
        parts: Rows and features by part.
        seed: Seed of the decomposition.
    """
    train = parts[0][1]
    scaler = StandardScaler().fit(train)
    count = min(COMPONENTS, train.shape[1], len(train) - 1)
    components = PCA(count, random_state=seed).fit(scaler.transform(train))
    return [(rows, components.transform(scaler.transform(value)) if len(rows) else value) for rows, value in parts]


def patient_radiomics(module: RoiDataModule, parts: Sequence[str], cache: Path, settings: RadiomicsSettings) -> Parts:
    """Radiomics of the patients of each part, averaged over the phases and studies of which they are known.

    What is missing then is the median of the first part's patients; a feature that none of them has, or that is the
    same in all of them, is left out.

    Returns:
        As `model_features`.

    Raises:
        DataError: if no patient of the first part has any feature.
    """
    visits = [module.visits(part) for part in parts]
    positions = [position for part in visits for found in part.volumes for position in found]
    table = radiomics_table(module.plan.volumes, positions, cache, settings)
    owners = module.plan.kidneys["row"].to_numpy(dtype=np.int64)
    result, start = [], 0
    for part in visits:
        taken = np.repeat(owners[np.asarray(part.kidney, dtype=np.int64)], [len(found) for found in part.volumes])
        values = table.iloc[start : start + len(taken)].to_numpy(dtype=np.float64)
        start += len(taken)
        patient, row = np.unique(taken, return_inverse=True)
        result.append((patient, _known_mean(values, row, len(patient))))
    return _filled(result, [str(name) for name in table.columns], module.label.name)


def _known_mean(values: np.ndarray, row: np.ndarray, count: int) -> np.ndarray:
    """Mean of what is known by owner, NaN where nothing is [owners, F]."""
    known = np.isfinite(values)
    share = owner_mean(known.astype(np.float64), row, count)
    total = owner_mean(np.where(known, values, 0.0), row, count)
    return np.divide(total, share, out=np.full(total.shape, np.nan), where=share > 0)


def _filled(parts: Parts, names: Sequence[str], task: str) -> Parts:
    medians = pd.DataFrame(parts[0][1]).median().to_numpy()
    filled = [(rows, np.where(np.isfinite(value), value, medians)) for rows, value in parts]
    kept = np.isfinite(medians) & (np.ptp(np.nan_to_num(filled[0][1]), axis=0) > 0)
    if not kept.any():
        raise DataError(
            f"No training patient of task {task} has a feature of radiomics that differs between patients; "
            "check the masks with `make qc`, or choose another encoder."
        )
    if not kept.all():
        left = [name for name, keep in zip(names, kept, strict=True) if not keep]
        say(f"Left out, since no training patients differ in it: {', '.join(left)}.")
    return [(rows, value[:, kept]) for rows, value in filled]
