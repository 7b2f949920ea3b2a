"""How likely the report of a kidney states a value of an attribute, and which values are worth stating."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from datamodules.batch import MISSING
from datamodules.reports.schema import AttributeSchema
from experiments.doubt.calibrators import BETA, NONE, Calibrator, fit_calibrator
from experiments.generation.template import PRESENCE
from experiments.runs.console import say


@dataclass(frozen=True)
class KnownKidneys:
    """Kidneys whose reports are known.

    Args:
        features: float [N, F] by attribute: what its chances follow from.
        codes: int64 [N, A] in the schema's order, -100 where not stated.
    """

    features: Mapping[str, np.ndarray]
    codes: np.ndarray


@dataclass(frozen=True)
class Chances:
    """A model of what reports state.

    Of every attribute one multinomial logistic regression, in which saying nothing is an outcome beside its values, is
    fitted on training kidneys. One beta map of all its values (Kull et al., AISTATS 2017), fitted on validation
    kidneys, makes calibrated probabilities of them. Of what is plain to see a report still says only a share, and beta,
    unlike a line of log-odds, can level off below 1. A value is stated from one threshold on: with calibrated
    probabilities the micro F1 is greatest where all items have the same (half of that F1, Lipton et al., ECML 2014); it
    is chosen on the validation kidneys.

    Args:
        schema: Attributes.
        models: Model by attribute, or its only outcome in training.
        calibrators: From the probability that a value is stated to the calibrated one, by attribute.
        threshold: Least probability of a value that is stated.
        f1: Micro F1 of facts on the validation kidneys.
    """

    schema: AttributeSchema
    models: Mapping[str, Pipeline | int]
    calibrators: Mapping[str, Calibrator]
    threshold: float
    f1: float

    def of(self, features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Calibrated probability that a report states each value, float64 [N, classes] by attribute.

        Args:
            features: As those of `KnownKidneys`.
        """
        return _calibrated(_raw(self.models, features, self.schema), self.calibrators)

    def stated(self, chances: Mapping[str, np.ndarray]) -> list[dict[str, str]]:
        """The values worth stating of every kidney, in the schema's order.

        Whether there is a lesion is always said; of a kidney without one nothing is said of a lesion.

        Args:
            chances: As `of` gives them.
        """
        codes = _stated(chances, self.threshold, self.schema)
        names, classes = list(self.schema.names), self.schema.classes
        return [
            {name: classes[name][code] for name, code in zip(names, row, strict=True) if code != MISSING}
            for row in codes
        ]


def fit_chances(
    training: KnownKidneys,
    validation: KnownKidneys,
    schema: AttributeSchema,
    penalty: float = 1.0,
) -> Chances:
    """Fit what reports state, and say from which probability on a value is stated.

    Args:
        training: Kidneys to fit on.
        validation: Kidneys to calibrate and to choose the threshold on.
        schema: Attributes.
        penalty: Inverse strength of the penalty.
    """
    models = {name: _model(training, schema.names.index(name), name, penalty) for name in training.features}
    raw = _raw(models, validation.features, schema)
    columns = {name: validation.codes[:, schema.names.index(name)] for name in raw}
    calibrators = {name: _calibrator(values, columns[name]) for name, values in raw.items()}
    chances = _calibrated(raw, calibrators)
    grid = np.arange(0.05, 0.7, 0.01)
    scores = [facts_f1(_stated(chances, float(value), schema), validation.codes) for value in grid]
    # The middle of those that are best: one kidney more or less moves the edge of a flat top.
    best = float(np.mean(grid[np.isclose(scores, max(scores))]))
    say(
        f"A value is stated from a probability of {best:.2f} on: micro F1 {max(scores):.3f} on {len(validation.codes)} "
        "validation kidneys, which chose it."
    )
    return Chances(schema, models, calibrators, best, max(scores))


def _model(kidneys: KnownKidneys, column: int, name: str, penalty: float) -> Pipeline | int:
    outcome = kidneys.codes[:, column]
    if len(np.unique(outcome)) == 1:
        return int(outcome[0])
    model: Pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=1000))
    model.fit(kidneys.features[name], outcome)
    return model


def _raw(
    models: Mapping[str, Pipeline | int], features: Mapping[str, np.ndarray], schema: AttributeSchema
) -> dict[str, np.ndarray]:
    found = {}
    for name, model in models.items():
        values = np.zeros((len(features[name]), len(schema.classes[name])))
        if isinstance(model, int):
            if model != MISSING:
                values[:, model] = 1.0
        else:
            shares = model.predict_proba(features[name])
            for column, code in enumerate(model.classes_):
                if code != MISSING:
                    values[:, code] = shares[:, column]
        found[name] = values
    return found


def _calibrator(raw: np.ndarray, codes: np.ndarray) -> Calibrator:
    """One map of all values of an attribute; none where none of them, or all, were stated."""
    outcome = (codes[:, None] == np.arange(raw.shape[1])).ravel()
    if outcome.all() or not outcome.any():
        return Calibrator(NONE)
    return fit_calibrator(_either(raw), outcome, BETA)


def _calibrated(raw: Mapping[str, np.ndarray], calibrators: Mapping[str, Calibrator]) -> dict[str, np.ndarray]:
    return {name: calibrators[name](_either(values))[:, 1].reshape(values.shape) for name, values in raw.items()}


def _either(raw: np.ndarray) -> np.ndarray:
    """Each probability of a value, row by row, beside that of anything else: float64 [N * classes, 2]."""
    return np.column_stack([1 - raw.ravel(), raw.ravel()])


def _stated(chances: Mapping[str, np.ndarray], threshold: float, schema: AttributeSchema) -> np.ndarray:
    """int64 [N, A], the values worth stating; -100 for none."""
    names = list(schema.names)
    count = len(next(iter(chances.values())))
    codes = np.full((count, len(names)), MISSING, dtype=np.int64)
    for name, values in chances.items():
        likeliest = values.argmax(axis=1)
        said = (values.max(axis=1) >= threshold) | (name == PRESENCE)
        codes[:, names.index(name)] = np.where(said, likeliest, MISSING)
    if PRESENCE in chances:
        absent = codes[:, names.index(PRESENCE)] == schema.classes[PRESENCE].index("no")
        lesion = [column for column, entry in enumerate(schema.attributes) if entry.level == "lesion"]
        codes[np.ix_(absent, lesion)] = MISSING
    return codes


def facts_f1(stated: np.ndarray, codes: np.ndarray) -> float:
    """Micro F1 of stated facts against those of reports, both int64 [N, A] with -100 where nothing is stated."""
    right = int(((stated == codes) & (codes != MISSING)).sum())
    total = int((stated != MISSING).sum() + (codes != MISSING).sum())
    return 2 * right / total if total else 0.0
