"""Every statistic against R's answers on ten groups with ties, strong effects, rare groups and separation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from experiments.statistics.cox_fit import NoMaximumError, fit_cox
from tests.experiments.statistics.golden.ours import FOLDER, expected, found, golden, groups
from tests.experiments.statistics.golden.simulated import simulated

_TOLERANCE = 1e-6
GROUPS, ANSWERS = groups(), golden()


@pytest.mark.slow
@pytest.mark.parametrize("name", list(GROUPS))
def test_statistics_are_those_of_r(name: str) -> None:
    ours, theirs = found(GROUPS[name], ANSWERS[name]), expected(ANSWERS[name])
    assert set(ours) == set(theirs)
    for statistic, values in theirs.items():
        np.testing.assert_allclose(ours[statistic], values, rtol=_TOLERANCE, atol=_TOLERANCE, err_msg=statistic)


def test_what_r_was_asked_is_hard() -> None:
    separated = {name for name in GROUPS if ANSWERS[name]["cox"]["separated"]}
    assert separated == {"separated", "separated_tied"}
    assert {len(rows) for rows in GROUPS.values()} >= {20, 2000}
    largest = max(ANSWERS[name]["cox"]["coefficient"][0] for name in GROUPS if name not in separated)
    assert np.exp(largest) > 40


def test_simulated_fits_are_rs_or_refused_where_r_warns() -> None:
    """Rare groups of strong effect, of which a plain Newton step lost most, and some that are separated."""
    answers = pd.read_csv(FOLDER / "simulated.csv").set_index("seed")
    assert answers["separated"].sum() >= 5
    for seed, answer in answers.iterrows():
        rows = simulated(int(seed))  # type: ignore[arg-type]
        design, time, event = rows[["high"]].to_numpy(float), rows["time"].to_numpy(), rows["event"].to_numpy() == 1
        if answer["separated"]:
            with pytest.raises(NoMaximumError):
                fit_cox(design, time, event)
            continue
        fitted = fit_cox(design, time, event)
        ours = (fitted.coefficient[0], fitted.standard_error[0], fitted.log_likelihood)
        assert ours == pytest.approx(tuple(answer[["coefficient", "se", "loglik"]]), rel=1e-9), seed
