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
from experiments.generation.template import PRESENCE

_LEAST = 1e-4


@dataclass(frozen=True)
class KnownKidneys:
    """KnownKidneys whose reports are known.

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
    fitted on training kidneys. A slope and an offset of the log-odds of its values, fitted on validation kidneys, make
    calibrated probabilities of them (Platt 1999). A value is stated from one threshold on: with calibrated
    probabilities the micro F1 is greatest where all items have the same (half of that F1, Lipton et al., ECML 2014); it
    is chosen on the validation kidneys.

    Args:
        schema: Attributes.
        models: Model by attribute, or its only outcome in training.
        lines: Slope and offset of the log-odds by attribute.
        threshold: Least probability of a value that is stated.
        f1: Micro F1 of facts on the validation kidneys.
    """

    schema: AttributeSchema
    models: Mapping[str, Pipeline | int]
    lines: Mapping[str, tuple[float, float]]
    threshold: float
    f1: float

    def of(self, features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Calibrated probability that a report states each value, float64 [N, classes] by attribute.

        Args:
            features: As those of `KnownKidneys`.
        """
        return _calibrated(_raw(self.models, features, self.schema), self.lines)

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
    """Fit what reports state.

    Args:
        training: KnownKidneys to fit on.
        validation: KnownKidneys to calibrate and to choose the threshold on.
        schema: Attributes.
        penalty: Inverse strength of the penalty.
    """
    models = {name: _model(training, schema.names.index(name), name, penalty) for name in training.features}
    raw = _raw(models, validation.features, schema)
    columns = {name: validation.codes[:, schema.names.index(name)] for name in raw}
    lines = {name: _calibration(values, columns[name]) for name, values in raw.items()}
    chances = _calibrated(raw, lines)
    grid = np.arange(0.05, 0.7, 0.01)
    scores = [facts_f1(_stated(chances, float(value), schema), validation.codes) for value in grid]
    # The middle of those that are best: one kidney more or less moves the edge of a flat top.
    best = float(np.mean(grid[np.isclose(scores, max(scores))]))
    return Chances(schema, models, lines, best, max(scores))


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


def _calibration(raw: np.ndarray, codes: np.ndarray) -> tuple[float, float]:
    """Slope and offset of the log-odds of an attribute's values; 1 and 0 where none of them, or all, were stated."""
    outcome = (codes[:, None] == np.arange(raw.shape[1])).ravel()
    if outcome.all() or not outcome.any():
        return 1.0, 0.0
    model = LogisticRegression(C=np.inf).fit(_logit(raw).reshape(-1, 1), outcome)
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def _calibrated(raw: Mapping[str, np.ndarray], lines: Mapping[str, tuple[float, float]]) -> dict[str, np.ndarray]:
    return {name: _expit(lines[name][0] * _logit(values) + lines[name][1]) for name, values in raw.items()}


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


def _logit(values: np.ndarray) -> np.ndarray:
    bounded = np.clip(values, _LEAST, 1 - _LEAST)
    return np.log(bounded / (1 - bounded))


def _expit(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))
