"""Predicted survival at a time: a straight line between cut points, nothing beyond them, each fold on its own."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from experiments.scores.survival_curves import curve_columns, predicted_survival


def test_lines_between_cut_points_and_nothing_beyond() -> None:
    rows = pd.DataFrame({"risk": [0.1, 0.2], "survival_40.00": [0.2, 0.5], "survival_8.00": [0.6, 1.0]})
    assert curve_columns(rows) == ["survival_8.00", "survival_40.00"]
    found = predicted_survival(rows, [0, 4, 8, 24, 40, 40.5])
    expected = [[1, 0.8, 0.6, 0.4, 0.2, np.nan], [1, 1, 1, 0.75, 0.5, np.nan]]
    np.testing.assert_allclose(found, expected)


def test_models_of_folds_have_cut_points_of_their_own() -> None:
    first = pd.DataFrame({"survival_0.00": [1.0, 1.0], "survival_10.00": [0.5, 0.7]})
    second = pd.DataFrame({"survival_0.00": [1.0], "survival_30.00": [0.4]})
    both = pd.concat([first, second], ignore_index=True)
    np.testing.assert_allclose(predicted_survival(both, [5.0, 20.0]), [[0.75, np.nan], [0.85, np.nan], [0.9, 0.6]])
    turned = predicted_survival(both.iloc[::-1], [5.0, 20.0])
    np.testing.assert_array_equal(turned, predicted_survival(both, [5.0, 20.0])[::-1])


def test_risks_alone_are_no_probabilities() -> None:
    rows = pd.DataFrame({"risk": [0.1, 0.2]})
    assert curve_columns(rows) == []
    assert np.isnan(predicted_survival(rows, [12.0])).all()
    assert predicted_survival(rows.assign(**{"survival_9.00": 0.5}).iloc[:0], [3.0]).shape == (0, 1)
    missing = pd.DataFrame({"survival_9.00": pd.array([pd.NA, 0.5], dtype="Float64")})
    assert predicted_survival(missing, [9.0])[1, 0] == pytest.approx(0.5)
    assert np.isnan(predicted_survival(missing, [9.0])[0, 0])
