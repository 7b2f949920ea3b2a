"""The draft: what is measured is said without a model, and a probability is one that was calibrated."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from datamodules.reports.schema import load_schema
from experiments.assessment.draft import MEASURED, Draft

MARGIN = load_schema()["margin"].class_names


def predictions(count: int, sharpness: float) -> pd.DataFrame:
    """Kidneys of one attribute whose scores are too sure by a power."""
    rng = np.random.default_rng(3)
    shares = rng.dirichlet(np.ones(len(MARGIN)), count)
    target = np.array([rng.choice(len(MARGIN), p=row) for row in shares])
    score = shares**sharpness / (shares**sharpness).sum(axis=1, keepdims=True)
    columns = {f"score:margin:{value}": score[:, number] for number, value in enumerate(MARGIN)}
    return pd.DataFrame({"target:margin": target, "role": "internal", **columns})


def test_a_model_that_is_too_sure_is_made_less_so() -> None:
    draft = Draft.fitted(predictions(3000, 3.0))
    assert draft.kidneys == {"margin": 3000}
    assert draft.calibrators["margin"].parameters[0]["inverse"] == pytest.approx(1 / 3, abs=0.04)
    share = np.full(len(MARGIN), 0.1 / (len(MARGIN) - 1))
    share[0] = 0.9
    scores = dict(zip(MARGIN, share, strict=True))
    (said,) = draft.sentences("left", {}, {"margin": {"value": MARGIN[0], "scores": scores}})
    assert said["score"] == 0.9
    assert said["probability"] < 0.8
    assert said["kidneys"] == 3000
    assert Draft.of_dict(draft.to_dict()).sentences("left", {}, {"margin": {"value": MARGIN[0], "scores": scores}}) == [
        said
    ]


def test_nothing_is_called_a_probability_that_was_not_calibrated() -> None:
    assert Draft.fitted(predictions(10, 1.0)).calibrators == {}
    scores = dict.fromkeys(MARGIN, 1 / len(MARGIN))
    (said,) = Draft({}, {}).sentences("right", {}, {"margin": {"value": MARGIN[0], "scores": scores}})
    assert "probability" not in said


def test_what_the_mask_answers_is_measured_and_the_model_is_not_asked() -> None:
    measures = {"has_lesion": True, "renal_pole": "upper", "renal_r_mm": 42.0, "renal_e": 2, "renal_n": 3}
    measures |= {"renal_n_mm": 2.0, "renal_a": "anterior", "lesion_count": 1}
    schema = load_schema()
    attributes = {
        name: {"value": schema[name].class_names[0], "scores": dict.fromkeys(schema[name].class_names, 0.5)}
        for name in schema.names
    }
    found = Draft({}, {}).sentences("left", measures, attributes)
    measured = [one["text"] for one in found if one["from"] == "measured"]
    assert "There is a lesion in the upper pole of the left kidney measuring 4.2 cm." in measured
    assert all("score" not in one for one in found if one["from"] == "measured")
    assert len(found) == len(measured) + len(set(schema.names) - MEASURED)
    painted = Draft({}, {}).sentences("left", {}, attributes)
    assert {one["from"] for one in painted} == {"model"}
    assert len(painted) == len(schema.names)
