"""The reference of an exported encoder, computed once from the scans that it was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from torch import nn

from datamodules.augmentation import VolumeAugmentation
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.keyed_order import keyed_choice
from datamodules.cohort.splits import split_of_fold
from datamodules.cohort.trained_on import TrainedOn
from datamodules.errors import DataError
from datamodules.importers.one_scan import ScanKidney, ScanView, slice_mm
from datamodules.volumes.shards import VolumeSet
from experiments.doubt.readings import Readings, Trained
from experiments.doubt.reference import Reference, ScanFacts
from experiments.doubt.region_measures import dense_ml, outside
from experiments.runs.console import counted, say

MOST_TRAINING, MOST_VALIDATION = 400, 200
"""Kidneys that are measured; more change no threshold."""
FEWEST_TRAINING, FEWEST_VALIDATION = 40, 20
FALSE_ALARMS = 0.05
"""Share of the validation kidneys that a threshold lets lie outside."""
_KEYS = ["patient_id", "study_id", "side"]


def fit_reference(
    cohort: Cohort,
    encoder: nn.Module,
    augmentation: VolumeAugmentation,
    trained_on: TrainedOn,
    fold: int | None = None,
    volumes: VolumeSet | None = None,
) -> Reference:
    """Measure training and validation kidneys.

    Training kidneys are those whose volumes the weights have seen. Thresholds are chosen on the validation patients of
    the internal centres, of a cohort with folds on those of the fold; on those of the pretraining centres where the
    cohort has no others. Test patients are not looked at.

    Args:
        cohort: Cohort with the training patients.
        encoder: The network.
        augmentation: How regions become its input.
        trained_on: Whom its weights have seen.
        fold: Fold that is tested, for a cohort with folds.
        volumes: Its volume set; that of the encoder's contract in the cohort's folder by default.

    Raises:
        DataError: if the cohort holds too few of either.
    """
    contract = augmentation.contract
    volumes = volumes or VolumeSet.find(cohort.root, contract.region, contract)
    index = volumes.index
    held = _validation(cohort, fold)
    seen = index["crc32"].astype("int64").isin(trained_on.rows["volume"]) & ~index["patient_id"].isin(held)
    trained = _chosen(index[seen], MOST_TRAINING, cohort.info.seed)
    validated = _chosen(index[index["patient_id"].isin(held)], MOST_VALIDATION, cohort.info.seed)
    if len(trained) < FEWEST_TRAINING or len(validated) < FEWEST_VALIDATION:
        raise DataError(
            f"Cohort {cohort.info.name} holds {len(trained)} kidneys that the encoder was trained on and "
            f"{len(validated)} of validation patients; expected {FEWEST_TRAINING} and {FEWEST_VALIDATION}, so that "
            "scans can be held against them. Name the cohort that the encoder was pretrained on."
        )
    say(f"Measuring what the encoder learned from: {len(trained) + len(validated)} kidneys, once.")
    encoder = encoder.eval()
    slices = _slices(cohort)
    readings, facts = [], []
    with counted("kidneys") as show:
        for number, kidney in enumerate(_kidneys(volumes, [*trained, *validated], slices), start=1):
            readings.append(Readings.of(kidney, encoder, augmentation))
            if number <= len(trained):
                facts.append(
                    [(outside(view.image, contract).mean(), dense_ml(view.image, contract)) for view in kidney.views]
                )
            show(number, len(trained) + len(validated))
    model = Trained.of(readings[: len(trained)])
    scores = np.stack([model.scores(reading) for reading in readings[len(trained) :]])
    shares, dense = np.concatenate(facts).T
    thickness = [value for value in (slices.get(key) for key in _series_keys(index[seen])) if value is not None]
    rules = ScanFacts(
        intensity=cohort.info.intensity,
        phantom=cohort.info.phantom,
        slice_mm=float(np.quantile(thickness, 0.99)) if thickness else None,
        outside_share=float(np.quantile(shares, 0.99)),
        dense_ml=float(dense.max()),
    )
    kidneys = (len(trained), len(validated))
    return Reference(model, np.median(scores, axis=0), thresholds(scores), rules, kidneys, f"cohort {cohort.info.name}")


def thresholds(scores: np.ndarray, false_alarms: float = FALSE_ALARMS) -> np.ndarray:
    """One threshold a check, float64 [C], so that the checks raise equally many alarms, and together not too many.

    Args:
        scores: float64 [N, C] of validation kidneys.
        false_alarms: Share of them that any check may let lie outside.
    """
    # Any check alone may use up what is allowed, or each its part of it: the common quantile lies between.
    for share in np.linspace(false_alarms, 0.0, 101):
        found: np.ndarray = np.quantile(scores, 1 - share, axis=0, method="higher")
        if (scores > found).any(axis=1).mean() <= false_alarms:
            break
    return found


def _validation(cohort: Cohort, fold: int | None) -> set[str]:
    patients = cohort.patients()
    if cohort.info.evaluation == "folds":
        if fold is None:
            raise DataError(f"Cohort {cohort.info.name} is evaluated in folds; name the fold that is tested.")
        return set(patients.loc[split_of_fold(patients, fold) == "val", "patient_id"])
    for role in ("internal", "pretrain"):
        found = set(patients.loc[(patients["role"] == role) & (patients["split"] == "val"), "patient_id"])
        if found:
            return found
    return set()


def _chosen(index: pd.DataFrame, most: int, seed: int) -> list[pd.DataFrame]:
    """The rows of each kidney, of not more kidneys than that; adding patients changes few."""
    keys = pd.MultiIndex.from_frame(index[_KEYS].astype(str))
    kept = keyed_choice(keys.unique().tolist(), most, seed, "likeness")
    rows = index[keys.isin(sorted(kept))]
    return [own for _, own in rows.groupby(_KEYS, sort=True)]


def _kidneys(
    volumes: VolumeSet, chosen: Sequence[pd.DataFrame], slices: dict[tuple[str, str], float | None]
) -> Iterator[ScanKidney]:
    """Kidneys of a cohort as those of a single scan."""
    for rows in chosen:
        views = [
            ScanView(str(row["phase"]), volumes.read(int(row["position"])), slices.get(key))
            for row, key in zip(rows.to_dict("records"), _series_keys(rows), strict=True)
        ]
        yield ScanKidney(str(rows["side"].iloc[0]), tuple(views), None, {})


def _slices(cohort: Cohort) -> dict[tuple[str, str], float | None]:
    rows = ({str(name): value for name, value in row.items()} for row in cohort["series"].to_dict("records"))
    return {(str(row["study_id"]), str(row["series_id"])): slice_mm(row) for row in rows}


def _series_keys(rows: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(rows["study_id"].astype(str), rows["series_id"].astype(str), strict=True))
