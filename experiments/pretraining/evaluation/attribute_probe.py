"""`make probe`: what a linear model reads out of an encoder's frozen features, attribute by attribute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from callbacks.predictions import attribute_frame
from datamodules.attributes import AttributeDataModule
from datamodules.batch import MISSING
from datamodules.cohort.cohort import Cohort
from datamodules.csv_files import write_csv
from experiments.encoders.exported import exported_encoder
from experiments.encoders.features import frozen_features
from experiments.pretraining.evaluation.attribute_results import MEAN, attribute_table
from experiments.registry import ENCODERS, WITHOUT_MASKS, choose
from experiments.runs.configuration import Configuration, datamodule_of
from experiments.runs.console import say
from experiments.runs.folders import FEATURES, cache_folder, experiment_of
from experiments.runs.pretrained import pretrained_from
from experiments.runs.run_data import bind_results, read_trained_on
from experiments.scores.results_table import caption, with_interval
from lightning_modules.export.image import load_exported
from lightning_modules.metrics.patient_scores import PatientTable
from lightning_modules.networks.image.encoders import EncoderConfig, build_encoder

STRENGTH = 0.01
"""Inverse strength of the L2 penalty; fixed, since there is nobody left to choose it on."""


def probe(
    encoder: str = "stage1",
    data: Path = Path("data/demo"),
    profile: str = "demo",
    pretrained: str = "s42",
    fold: int | None = None,
    runs: Path = Path("runs"),
    extra: list[str] | None = None,
) -> int:
    """Fit a logistic regression per attribute on frozen features, and test it on the held-out centres.

    The kidneys are those of stage 1: fitted on the training patients of the pretraining centres, tested on all other
    centres, one phase a kidney (arterial, else venous). With `encoder=scratch` the features are those of random
    weights: what the network's shape alone gives.

    Args:
        encoder: Image encoder.
        data: Folder of the cohort.
        profile: Size of the network and grid.
        pretrained: Pretraining of the weights: `s42`, or with its TAG `s42-mytag`; its seed also draws the
            random weights of `scratch`.
        fold: Fold to test, for a cohort with folds.
        runs: Folder of all runs.
        extra: Further flags, for example `["--data.init_args.batch_size=64"]`.
    """
    # A cohort holds the index kidneys alone for a published encoder, and attributes are those of every kidney.
    own = {name: entry for name, entry in ENCODERS.items() if not entry.columns and not entry.release}
    choose("ENCODER", encoder, dict(own))
    origin, cohort = pretrained_from(pretrained), Cohort.load(data)
    seed = origin.seed
    weights = exported_encoder(runs, cohort, encoder, seed, fold, origin.tag)
    module, config = _data(data, encoder, profile, seed, fold, extra or [])
    if weights is not None:
        read_trained_on(weights).refuse_seen(module.identity, f"ENCODER={encoder}", ("test",))
    torch.manual_seed(seed)
    network = build_encoder(config) if weights is None else load_exported(weights)[0]
    cache = cache_folder(runs, cohort, FEATURES)
    fitted, tested = (_features(network, module, part, cache) for part in ("train", "test"))
    table = attribute_table(_predict(module, fitted, tested))
    folder = runs / experiment_of(cohort, "probe")
    path = folder / f"attributes-{encoder}-{origin}{'' if fold is None else f'-fold{fold}'}.csv"
    bind_results(path, [module.identity])
    write_csv(path, table)
    for row in table[table["attribute"] == MEAN].to_dict("records"):
        say(
            f"Linear probe on {encoder}, mean AUC of attributes, {row['group']}, with 95 % interval: "
            f"{with_interval(row['auroc'], row['low'], row['high'], row['interval'])}, "
            f"{row['kidneys']} kidneys of {row['patients']} patients"
        )
    say(f"{caption(cohort.info)} Table: {path.as_posix()}")
    return 0


def _data(
    data: Path, encoder: str, profile: str, seed: int, fold: int | None, extra: list[str]
) -> tuple[AttributeDataModule, EncoderConfig]:
    options = {
        "seed_everything": seed,
        "data.init_args.root": data,
        "data.init_args.fold": fold,
        "data.init_args.phases": "single",
        **WITHOUT_MASKS,
    }
    configuration = Configuration.of("image", profile=profile, encoder=encoder, values=options, flags=extra)
    return datamodule_of(configuration), EncoderConfig.of(configuration.resolved()["encoder"])


def _features(network: nn.Module, module: AttributeDataModule, part: str, cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """Features [N, F] of the kidneys of a part, and their numbers [N]."""
    visits = module.visits(part)
    positions = [found[0] for found in visits.volumes]
    return frozen_features(network, module, positions, cache), np.asarray(visits.kidney, dtype=np.int64)


def _predict(
    module: AttributeDataModule, fitted: tuple[np.ndarray, np.ndarray], tested: tuple[np.ndarray, np.ndarray]
) -> pd.DataFrame:
    codes, classes = module.plan.fields["attributes"], {n: list(counts) for n, counts in module.class_counts.items()}
    scores = probe_scores(fitted[0], codes[fitted[1]], tested[0], [len(values) for values in classes.values()])
    table = PatientTable(
        torch.from_numpy(tested[1]), torch.from_numpy(scores).float(), torch.from_numpy(codes[tested[1]])
    )
    return attribute_frame(table, module.plan.kidneys, module.plan.patients, classes)


def probe_scores(fitted: np.ndarray, codes: np.ndarray, tested: np.ndarray, classes: list[int]) -> np.ndarray:
    """Log-probabilities of a logistic regression per attribute on frozen features.

    Args:
        fitted: float [N, F], features of the training kidneys.
        codes: int [N, A], their class indices, -100 where not stated.
        tested: float [M, F], features of the kidneys to score.
        classes: Number of classes of every attribute.

    Returns:
        float64 [M, sum of classes]; -20 for a class that no training kidney has.

    Warns:
        sklearn.exceptions.ConvergenceWarning: if a regression has not converged after ten thousand steps.
    """
    scores = []
    for column, count in enumerate(classes):
        target = codes[:, column]
        stated = target != MISSING
        score = np.full((len(tested), count), -20.0)
        known = np.unique(target[stated])
        if len(known) > 1:
            model = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=10_000))
            model.fit(fitted[stated], target[stated])
            score[:, known] = _log_probability(model.decision_function(tested))
        elif len(known):
            score[:, known] = 0.0
        scores.append(score)
    return np.concatenate(scores, axis=1)


def _log_probability(margin: np.ndarray) -> np.ndarray:
    """Log-probabilities of classes of a logistic regression, finite also where a probability is 0 as a number.

    Args:
        margin: Log-odds of the second of two classes [M], or a score of every class [M, C].
    """
    scores = np.stack([np.zeros(len(margin)), margin], axis=1) if margin.ndim == 1 else margin
    return np.asarray(log_softmax(scores, axis=1))
