"""A model on frozen features as a point of a curve: seconds a fit, tested and reported like a fine-tuned one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from lightning.pytorch.loggers import MLFlowLogger
from sklearn.linear_model import LogisticRegression

from callbacks.predictions import PREDICTIONS, prediction_frame
from datamodules.cohort.columns import ENDPOINTS
from datamodules.errors import DataError
from datamodules.files import write_parquet
from datamodules.tasks import RoiDataModule
from experiments.encoders.radiomics.patient_features import model_features
from experiments.finetuning.attribute_space import AttributeSpace
from experiments.finetuning.boosting import boosted_classes, boosted_survival
from experiments.finetuning.left_head import AS_IT_IS, Linear, Standard, task_head
from experiments.finetuning.prompted import fit_prompted, fit_prompted_risk
from experiments.runs.baseline import BaselineConfig
from experiments.runs.console import say
from experiments.runs.launch import Launch, claim
from experiments.runs.locks import training
from experiments.runs.run_data import run_data
from experiments.runs.tracking import make_logger
from experiments.statistics.auroc import macro_auroc
from experiments.statistics.concordance import harrell
from experiments.statistics.cox_fit import CoxFit, fit_cox
from experiments.statistics.partial_likelihood import PartialLikelihood
from experiments.statistics.penalty import balanced_folds, least_loss, weighted_log_loss
from lightning_modules.core.distributed import is_main_rank
from lightning_modules.downstream.baseline_hazard import BaselineHazard
from lightning_modules.export.task_head import HEAD_FOLDER, save_task_head
from lightning_modules.losses.balance import class_weights

LOGISTIC_STRENGTHS = tuple(10.0**power for power in range(4, -3, -1))
"""L2 penalties of the logistic regression, strongest first, in units of scikit-learn's 1 / C."""
COX_STRENGTHS = tuple(10.0 ** (power / 2) for power in range(8, -1, -1))
"""Ridge penalties of the Cox model, strongest first, in units of the log partial likelihood."""


_OF_TRAINING = ("batch_size", "samples_per_epoch", "augmentation", "center_weights")
"""Settings of a DataModule that nothing here is fitted with."""


class Fit(NamedTuple):
    """A fitted model: its columns of predictions by patient, how it was chosen, and what a linear one leaves."""

    columns: dict[str, np.ndarray]
    chosen: Mapping[str, float]
    validation: float
    linear: Linear | None = None


class ProbePart(NamedTuple):
    """Patients of one part: rows of the patient table [N], features as the model takes them [N, F], outcome [N]."""

    patient: np.ndarray
    feature: np.ndarray
    outcome: np.ndarray


def run_probe(launch: Launch) -> MLFlowLogger:
    """Fit and test a model on the frozen features, radiomics or columns of a launch, in the place of a training run.

    A logistic regression with the class weights of fine-tuning, or a Cox model with a ridge penalty and Efron's ties;
    or boosted trees with the same weights and Cox's likelihood; or a logistic regression that starts from the prompts
    of the task (module `prompted`). The penalty of a linear model is that of the least loss in folds of the training
    and validation patients; depth and number of trees are chosen on validation patients by the metric of the task.
    Writes `predictions.parquet` as a training run does, with the curve of survival at the cut points of the task's time
    grid, and of a linear model on an exported encoder's features alone `head/`, which `make assess` applies to new
    patients.

    Returns:
        The logger, for further metrics.

    Raises:
        DataError: if the folder holds another configuration, or no strength can be fitted.
        ModelError: if the encoder does not fit.
    """
    with training(launch.folder):
        return _run_probe(launch)


def _run_probe(launch: Launch) -> MLFlowLogger:
    cli = launch.configuration.build()
    data = run_data(cli, launch.sources, True, launch.command)
    claim(launch, cli, data)
    module: RoiDataModule = cli.datamodule
    cache = launch.runs / launch.experiment.rsplit("/", 1)[0] / "features"
    baseline: BaselineConfig = cli.config_init["baseline"]
    raw = model_features(baseline, cli.model.encoder, module, ("train", "val", "test"), cache)
    standard = AS_IT_IS if baseline.prompts else Standard.of(raw[0][1])
    train, val, test = _parts(raw, standard, _outcome(module))
    started = time.monotonic()
    if baseline.prompts:
        fit = _prompted(module, AttributeSpace.load(launch.sources[0]), train, val, (val, test))
    else:
        fit = _MODELS[baseline.model, module.label.kind](module, train, val, (val, test))
    seconds = time.monotonic() - started
    how = f"{fit.validation:.3f} on {len(val.patient)} validation patients"
    if np.isnan(fit.validation):
        how = "validation patients tell nothing"
    chosen = [f"{name} {value:g}" for name, value in fit.chosen.items()]
    say(
        f"{baseline.model.capitalize()} model on {train.feature.shape[1]} features of {len(train.patient)} patients, "
        f"fitted in {seconds:.1f} s; {', '.join([*chosen, how])}"
    )
    tags = {**launch.tags, **data.tags()}
    logger = make_logger(launch.runs, launch.folder, launch.experiment, launch.name, tags, launch.parent)
    if is_main_rank():
        metric = "c_index" if module.label.kind == "survival" else "auroc"
        read = {"columns": ", ".join(baseline.columns) or "none", "model": baseline.model}
        read["prompts"] = str(baseline.prompts)
        read["radiomics"] = "none" if baseline.radiomics is None else baseline.radiomics.hash
        used = {name: value for name, value in module.hparams.items() if name not in _OF_TRAINING}
        if any(True for _ in cli.model.encoder.parameters()):
            used["crop"] = module.augmentation.config.crop
        logger.log_hyperparams({**used, **fit.chosen, **read})
        logger.log_metrics({"fit_seconds": seconds, **fit.chosen})
        if np.isfinite(fit.validation):
            logger.log_metrics({f"val/{metric}": fit.validation})
        columns = {name: torch.from_numpy(values) for name, values in fit.columns.items()}
        patient = torch.from_numpy(np.concatenate([val.patient, test.patient]))
        frame = prediction_frame(patient, module.plan.patients, columns, module.label.endpoint)
        write_parquet(launch.folder / PREDICTIONS, frame)
        encoder = str(cli.model.hparams["pretrained_sha256"])
        if fit.linear is not None and encoder and not baseline.columns and baseline.radiomics is None:
            save_task_head(
                launch.folder / HEAD_FOLDER,
                task_head(module, standard, train.feature, train.outcome, fit.linear, encoder),
            )
        logger.finalize("success")
    return logger


def _parts(raw: Sequence[tuple[np.ndarray, np.ndarray]], standard: Standard, outcome: np.ndarray) -> list[ProbePart]:
    """The three parts, standardised."""
    return [
        ProbePart(patient, standard.of_features(feature) if len(patient) else feature, outcome[patient])
        for patient, feature in raw
    ]


def _outcome(module: RoiDataModule) -> np.ndarray:
    """Class index of every patient, or event and months as fields of one array."""
    if module.label.kind == "classification":
        return module.plan.patients["target"].to_numpy(dtype=np.int64)
    values, column = module.endpoints, ENDPOINTS.index(module.label.endpoint)
    outcome = np.empty(len(module.plan.patients), dtype=[("event", bool), ("months", np.float64)])
    outcome["event"], outcome["months"] = values["event"][:, column], values["time_months"][:, column]
    return outcome


class Ranking(Protocol):
    """What gives every patient a log-risk."""

    def predict(self, feature: np.ndarray) -> np.ndarray:
        """Log-risk [N] of features [N, F]."""


def _validated_classes(val: ProbePart, classes: int) -> Callable[[np.ndarray], float]:
    """Macro AUC of probabilities of the validation patients; NaN where they lack a class."""

    def validated(score: np.ndarray) -> float:
        if len(np.unique(val.outcome)) < classes:
            return float("nan")
        return float(macro_auroc(val.outcome, score, np.ones((1, len(val.outcome))))[0])

    return validated


def _validated_survival(val: ProbePart) -> Callable[[np.ndarray], float]:
    """Harrell's C-index of risks of the validation patients."""

    def validated(risk: np.ndarray) -> float:
        # Without an event, and somebody who outlives it, there is nothing to compare.
        event, months = val.outcome["event"], val.outcome["months"]
        if not event.any() or months[event].min() >= months.max():
            return float("nan")
        return float(harrell(months, event, risk)(np.ones((1, len(risk))))[0])

    return validated


def _on_validation(
    validated: Callable[[np.ndarray], float], predict: Callable[[np.ndarray], np.ndarray], val: ProbePart
) -> float:
    """The metric of the validation patients; NaN where there are none."""
    return validated(predict(val.feature)) if len(val.patient) else float("nan")


def _scores(module: RoiDataModule, model: Any, predicted: Sequence[ProbePart]) -> dict[str, np.ndarray]:
    score = np.concatenate([model.predict_proba(part.feature) for part in predicted if len(part.patient)])
    return {f"score_{name}": score[:, number] for number, name in enumerate(module.label.class_names)}


def _risks(
    module: RoiDataModule, model: Ranking, train: ProbePart, predicted: Sequence[ProbePart]
) -> dict[str, np.ndarray]:
    """`risk`, the log-risk, and `survival_<months>`, Breslow's curve at the cut points of the task's time grid."""
    risk = model.predict(np.concatenate([part.feature for part in predicted if len(part.patient)]))
    cuts = [float(cut) for cut in module.outcome["cuts"]]
    months, event = (torch.from_numpy(np.ascontiguousarray(train.outcome[name])) for name in ("months", "event"))
    baseline = BaselineHazard(torch.from_numpy(model.predict(train.feature)), months, event, cuts)
    at = baseline.survival(torch.from_numpy(risk)).numpy()
    return {"risk": risk, **{f"survival_{cut:.2f}": at[:, i] for i, cut in enumerate(cuts)}}


def _logistic(module: RoiDataModule, train: ProbePart, val: ProbePart, predicted: Sequence[ProbePart]) -> Fit:
    counts = module.class_counts
    weight = class_weights(counts, "root").numpy().astype(np.float64)

    def fitted(strength: float, feature: np.ndarray, outcome: np.ndarray) -> LogisticRegression:
        model = LogisticRegression(C=1 / strength, class_weight=dict(enumerate(weight.tolist())), max_iter=5000)
        return model.fit(feature, outcome)

    both = _together(train, val)

    def left_out(strength: float, rows: np.ndarray, tested: np.ndarray) -> float:
        model = fitted(strength, both.feature[rows], both.outcome[rows])
        return weighted_log_loss(model.predict_proba(both.feature[tested]), both.outcome[tested], weight)

    strength = _penalty(module, both, both.outcome, LOGISTIC_STRENGTHS, left_out)
    model = fitted(strength, train.feature, train.outcome)
    value = _on_validation(_validated_classes(val, len(counts)), model.predict_proba, val)
    # Of two classes scikit-learn keeps the difference of their logits.
    weight, bias = (np.atleast_2d(value) for value in (model.coef_, model.intercept_))
    if len(counts) == 2:
        weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias], axis=1)
    return Fit(_scores(module, model, predicted), {"penalty": strength}, value, Linear(weight, bias[0]))


def _prompted(
    module: RoiDataModule, space: AttributeSpace, train: ProbePart, val: ProbePart, predicted: Sequence[ProbePart]
) -> Fit:
    """A model that starts from the prompts; without a training patient it is the prompts."""
    if module.label.kind == "survival":
        risk = fit_prompted_risk(module, space, (train.feature, val.feature), train.outcome)
        value = _on_validation(_validated_survival(val), risk.predict, val)
        return Fit(_risks(module, risk, train, predicted), {}, value, Linear(risk.weight[None]))
    both = _together(train, val)
    model = fit_prompted(
        module, space, (train.feature, val.feature), (train.outcome, val.outcome), _names(module, both)
    )
    value = _on_validation(_validated_classes(val, len(model.bias)), model.predict_proba, val)
    chosen = {} if np.isnan(model.trust) else {"trust": model.trust}
    left = Linear(model.weight, model.bias) if len(train.patient) else None
    return Fit(_scores(module, model, predicted), chosen, value, left)


def _names(module: RoiDataModule, part: ProbePart) -> list[str]:
    names: list[str] = module.plan.patients["patient_id"].astype(str).to_numpy()[part.patient].tolist()
    return names


def _together(train: ProbePart, val: ProbePart) -> ProbePart:
    if not len(val.patient):
        return train
    return ProbePart(*(np.concatenate(pair) for pair in zip(train, val, strict=True)))


def _penalty(
    module: RoiDataModule,
    both: ProbePart,
    outcome: np.ndarray,
    strengths: Sequence[float],
    left_out: Callable[[float, np.ndarray, np.ndarray], float],
) -> float:
    """The strength of least loss over folds of the training and validation patients; else that in the middle.

    A loss counts every patient, where an AUC of sixty validation patients moves with a few of them. The validation
    patients choose the penalty and nothing else: the model is fitted on the training patients.
    """
    fold = balanced_folds(_names(module, both), outcome, module.seed)
    return least_loss(strengths, fold, left_out, strengths[len(strengths) // 2])


def _within_span(train: ProbePart, others: Sequence[ProbePart]) -> tuple[ProbePart, list[ProbePart], np.ndarray | None]:
    """The same patients in coordinates of the directions in which the training patients differ, where those are fewer.

    The third is those directions [F, K]; None where the coordinates stay.

    A ridge model has no weight along any other direction, and an orthonormal change of coordinates leaves its penalty
    as it is: the same scores from matrices of the number of patients instead of the number of features.
    """
    if train.feature.shape[1] <= len(train.feature):
        return train, list(others), None
    centred = train.feature - train.feature.mean(axis=0)
    _, length, axes = np.linalg.svd(centred, full_matrices=False)
    kept = axes[length > length[0] * max(centred.shape) * np.finfo(centred.dtype).eps].T
    turned = [part._replace(feature=part.feature @ kept) if len(part.patient) else part for part in (train, *others)]
    return turned[0], turned[1:], kept


def _cox(module: RoiDataModule, train: ProbePart, val: ProbePart, predicted: Sequence[ProbePart]) -> Fit:
    train, (val, *predicted), axes = _within_span(train, [val, *predicted])

    def fitted(strength: float) -> CoxFit:
        try:
            return fit_cox(train.feature, train.outcome["months"], train.outcome["event"], strength)
        except DataError as error:
            raise DataError(f"Task {module.label.name}, penalty {strength:g}: {error}") from error

    both = _together(train, val)
    months, event = both.outcome["months"], both.outcome["event"]

    def left_out(strength: float, rows: np.ndarray, tested: np.ndarray) -> float:
        """What the left-out patients add to the partial likelihood (Verweij and van Houwelingen, Stat Med 1993)."""
        model = fit_cox(both.feature[rows], months[rows], event[rows], strength)
        kept = PartialLikelihood(both.feature[rows], months[rows], event[rows])
        loss = kept.value(model.coefficient) - everybody.value(model.coefficient)
        return loss if np.isfinite(loss) else float("inf")

    everybody = PartialLikelihood(both.feature, months, event)
    strength = _penalty(module, both, event, COX_STRENGTHS, left_out)
    model = fitted(strength)
    value = _on_validation(_validated_survival(val), model.predict, val)
    weight = model.coefficient if axes is None else axes @ model.coefficient
    return Fit(_risks(module, model, train, predicted), {"penalty": strength}, value, Linear(weight[None]))


def _boosted_classes(module: RoiDataModule, train: ProbePart, val: ProbePart, predicted: Sequence[ProbePart]) -> Fit:
    counts = module.class_counts
    weight = class_weights(counts, "root").numpy()[train.outcome]
    metric = _validated_classes(val, len(counts))
    found = boosted_classes(train.feature, train.outcome, weight, metric, val.feature, module.seed)
    return Fit(_scores(module, found.model, predicted), {"depth": found.depth, "trees": found.trees}, found.validation)


def _boosted_survival(module: RoiDataModule, train: ProbePart, val: ProbePart, predicted: Sequence[ProbePart]) -> Fit:
    found = boosted_survival(train.feature, train.outcome, _validated_survival(val), val.feature, module.seed)
    columns = _risks(module, found.model, train, predicted)
    return Fit(columns, {"depth": found.depth, "trees": found.trees}, found.validation)


_MODELS = {
    ("linear", "classification"): _logistic,
    ("linear", "survival"): _cox,
    ("boosting", "classification"): _boosted_classes,
    ("boosting", "survival"): _boosted_survival,
}
"""What fits, by model and kind of task."""
