"""Every statistic against R's answers on ten groups with ties, strong effects, rare groups and separation."""

from __future__ import annotations

import numpy as np
import pytest

from tests.experiments.statistics.golden.ours import expected, found, golden, groups

_TOLERANCE = 1e-6
GROUPS, ANSWERS = groups(), golden()


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
