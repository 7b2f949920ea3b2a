"""A linear model on frozen features as a point of a curve: seconds a fit, tested and reported like a fine-tuned one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from lightning.pytorch.loggers import MLFlowLogger
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.metrics import concordance_index_censored

from callbacks.predictions import PREDICTIONS, prediction_frame
from datamodules.errors import DataError
from datamodules.files import write_parquet
from datamodules.roi import RoiDataModule
from datamodules.schema import ENDPOINTS
from experiments.console import is_main_rank, say
from experiments.features import patient_features
from experiments.launch import Launch, claim
from experiments.registry import ENCODERS
from experiments.statistics.bootstrap import macro_auroc
from experiments.suite_cli import SuiteCLI
from experiments.table_features import table_features
from experiments.tracking import make_logger
from lightning_modules.losses.balance import class_weights

LOGISTIC_STRENGTHS = tuple(10.0**power for power in range(4, -3, -1))
"""L2 penalties of the logistic regression, strongest first, in units of scikit-learn's 1 / C."""
COX_STRENGTHS = tuple(10.0 ** (power / 2) for power in range(8, -1, -1))
"""Ridge penalties of the Cox model, strongest first, in units of the log partial likelihood."""


class Fit(NamedTuple):
    """A fitted model: its columns of predictions by patient, and how it was chosen."""

    columns: dict[str, np.ndarray]
    strength: float
    validation: float


class Part(NamedTuple):
    """Patients of one part: rows of the patient table [N], standardised features [N, F], and outcome [N]."""

    patient: np.ndarray
    feature: np.ndarray
    outcome: np.ndarray


def run_probe(launch: Launch) -> MLFlowLogger:
    """Fit and test the linear probe of a launch, in the place of a training run.

    A logistic regression with the class weights of fine-tuning, or a Cox model with a ridge penalty and Efron's ties.
    The strength of the penalty is chosen on validation patients by the metric of the task, the stronger one where they
    tie. Writes `predictions.parquet` as a training run does.

    Returns:
        The logger, for further metrics.

    Raises:
        DataError: if the folder holds another configuration, or no strength can be fitted.
        ModelError: if the encoder does not fit.
    """
    cli = SuiteCLI(launch.arguments(), run=False)
    claim(launch, cli.resolved_config())
    module: RoiDataModule = cli.datamodule
    cache = launch.runs / launch.experiment.rsplit("/", 1)[0] / "features"
    read = ENCODERS[launch.tags["encoder"]].columns
    train, val, test = _parts(cli.model.encoder, module, cache, read)
    started = time.monotonic()
    fit = (_cox if module.label.kind == "survival" else _logistic)(module, train, val, (val, test))
    seconds = time.monotonic() - started
    how = f"chosen on {len(val.patient)} validation patients ({fit.validation:.3f})"
    if np.isnan(fit.validation):
        how = "the middle one, since validation tells none apart"
    say(
        f"Linear model on {train.feature.shape[1]} features of {len(train.patient)} patients, fitted in "
        f"{seconds:.1f} s; penalty {fit.strength:g}, {how}"
    )
    logger = make_logger(launch.runs, launch.folder, launch.experiment, launch.name, launch.tags, launch.parent)
    if is_main_rank():
        metric = "c_index" if module.label.kind == "survival" else "auroc"
        logger.log_hyperparams({**module.hparams, "penalty": fit.strength, "columns": ", ".join(read) or "image"})
        logger.log_metrics({"fit_seconds": seconds, "penalty": fit.strength})
        if np.isfinite(fit.validation):
            logger.log_metrics({f"val/{metric}": fit.validation})
        columns = {name: torch.from_numpy(values) for name, values in fit.columns.items()}
        patient = torch.from_numpy(np.concatenate([val.patient, test.patient]))
        frame = prediction_frame(patient, module.plan.patients, columns, module.label.endpoint)
        write_parquet(launch.folder / PREDICTIONS, frame)
        logger.finalize("success")
    return logger


def _parts(
    network: torch.nn.Module, module: RoiDataModule, cache: Path, columns: Sequence[str]
) -> tuple[Part, Part, Part]:
    """The three parts: features of the encoder, or those columns of the tables."""
    wanted = ("train", "val", "test")
    raw = table_features(module, columns, wanted) if columns else patient_features(network, module, wanted, cache)
    scaler = StandardScaler().fit(raw[0][1])
    outcome = _outcome(module)
    parts = [
        Part(patient, scaler.transform(feature) if len(patient) else feature, outcome[patient])
        for patient, feature in raw
    ]
    return parts[0], parts[1], parts[2]


def _outcome(module: RoiDataModule) -> np.ndarray:
    """Class index of every patient, or event and months as scikit-survival takes them."""
    if module.label.kind == "classification":
        return module.plan.patients["target"].to_numpy(dtype=np.int64)
    values, column = module.endpoints, ENDPOINTS.index(module.label.endpoint)
    outcome = np.empty(len(module.plan.patients), dtype=[("event", bool), ("months", np.float64)])
    outcome["event"], outcome["months"] = values["event"][:, column], values["time_months"][:, column]
    return outcome


Model = TypeVar("Model")


def _chosen(
    strengths: Sequence[float], fitted: Callable[[float], Model], validated: Callable[[Model], float]
) -> tuple[Model, float, float]:
    """The model of the best strength on validation, the stronger where equal; the middle one if none can be told."""
    results = [(strength, fitted(strength)) for strength in strengths]
    values = [validated(model) for _, model in results]
    if np.isnan(values).all():
        middle = len(results) // 2
        return results[middle][1], results[middle][0], float("nan")
    best = int(np.nanargmax(values))
    return results[best][1], results[best][0], values[best]


def _logistic(module: RoiDataModule, train: Part, val: Part, predicted: Sequence[Part]) -> Fit:
    counts = module.class_counts
    weight = dict(enumerate(class_weights(counts, "root").tolist()))

    def fitted(strength: float) -> LogisticRegression:
        model = LogisticRegression(C=1 / strength, class_weight=weight, max_iter=5000)
        return model.fit(train.feature, train.outcome)

    def validated(model: LogisticRegression) -> float:
        if len(np.unique(val.outcome)) < len(counts):
            return float("nan")
        return float(macro_auroc(val.outcome, model.predict_proba(val.feature), np.ones((1, len(val.outcome))))[0])

    model, strength, value = _chosen(LOGISTIC_STRENGTHS, fitted, validated)
    score = np.concatenate([model.predict_proba(part.feature) for part in predicted if len(part.patient)])
    return Fit({f"score_{name}": score[:, i] for i, name in enumerate(module.label.class_names)}, strength, value)


def _cox(module: RoiDataModule, train: Part, val: Part, predicted: Sequence[Part]) -> Fit:
    def fitted(strength: float) -> CoxPHSurvivalAnalysis:
        try:
            return CoxPHSurvivalAnalysis(alpha=strength, ties="efron", n_iter=200).fit(train.feature, train.outcome)
        except ValueError as error:
            raise DataError(
                f"The Cox model of task {module.label.name} with penalty {strength:g} has no finite solution ({error})."
            ) from error

    def validated(model: CoxPHSurvivalAnalysis) -> float:
        # Without an event, and somebody who outlives it, there is nothing to compare.
        event, months = val.outcome["event"], val.outcome["months"]
        if not event.any() or months[event].min() >= months.max():
            return float("nan")
        return float(concordance_index_censored(event, months, model.predict(val.feature))[0])

    model, strength, value = _chosen(COX_STRENGTHS, fitted, validated)
    risk = np.concatenate([model.predict(part.feature) for part in predicted if len(part.patient)])
    return Fit({"risk": risk}, strength, value)
