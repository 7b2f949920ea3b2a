"""What is worth stating: calibrated probabilities, one threshold, and nothing of a lesion where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.reports.schema import load_schema
from experiments.generation.stated_chances import Chances, KnownKidneys, facts_f1, fit_chances

SCHEMA = load_schema()
NAMES = list(SCHEMA.names)
POLE, STONES, PRESENCE = NAMES.index("pole"), NAMES.index("stones"), NAMES.index("lesion_present")


def kidneys(count: int, seed: int) -> KnownKidneys:
    """Poles that a feature tells, stated in 70 % of the reports, and stones that none tells, stated in 5 %."""
    rng = np.random.default_rng(seed)
    codes = np.full((count, len(NAMES)), -100, dtype=np.int64)
    pole = rng.integers(0, 3, count)
    codes[:, PRESENCE] = SCHEMA.classes["lesion_present"].index("yes")
    codes[:, POLE] = np.where(rng.random(count) < 0.7, pole, -100)
    codes[:, STONES] = np.where(rng.random(count) < 0.05, rng.integers(0, 2, count), -100)
    feature = 2 * np.eye(3)[pole] + rng.normal(size=(count, 3))
    return KnownKidneys(dict.fromkeys(("lesion_present", "pole", "stones"), feature), codes)


@pytest.mark.slow
def test_the_threshold_is_that_of_the_best_f1_and_near_half_of_it() -> None:
    training, validation, tested = kidneys(2000, 0), kidneys(2000, 1), kidneys(2000, 2)
    found = fit_chances(training, validation, SCHEMA)
    chances = found.of(validation.features)
    for threshold in np.arange(0.05, 0.7, 0.01):
        other = Chances(SCHEMA, found.models, found.calibrators, float(threshold), 0.0)
        assert facts_f1(codes_of(other.stated(chances)), validation.codes) <= found.f1 + 1e-12
    # Lipton et al. 2014: the best threshold of calibrated probabilities is half of the best F1.
    assert (
        facts_f1(
            codes_of(Chances(SCHEMA, found.models, found.calibrators, found.f1 / 2, 0.0).stated(chances)),
            validation.codes,
        )
        > found.f1 - 0.01
    )
    facts = found.stated(found.of(tested.features))
    assert not any("stones" in own for own in facts)
    assert all("pole" in own for own in facts[:50]) or found.threshold > 0.3
    assert abs(facts_f1(codes_of(facts), tested.codes) - found.f1) < 0.03


def test_chances_are_as_frequent_as_they_say() -> None:
    found = fit_chances(kidneys(300, 3), kidneys(3000, 4), SCHEMA, 100.0)
    tested = kidneys(6000, 5)
    values = found.of(tested.features)["pole"]
    true = tested.codes[:, POLE, None] == np.arange(3)
    for low, high in ((0.05, 0.2), (0.2, 0.5), (0.5, 0.7)):
        chosen = (values >= low) & (values < high)
        assert abs(values[chosen].mean() - true[chosen].mean()) < 0.05


def test_nothing_is_said_of_a_lesion_that_is_not_there() -> None:
    found = Chances(SCHEMA, {}, {}, 0.3, 0.0)
    present = np.zeros((2, 2))
    present[0, SCHEMA.classes["lesion_present"].index("no")] = 0.2  # said, however unlikely both are
    present[1, SCHEMA.classes["lesion_present"].index("yes")] = 0.9
    pole = np.array([[0.8, 0.1, 0.1], [0.2, 0.1, 0.6]])
    stones = np.array([[0.1, 0.35], [0.1, 0.29]])
    assert found.stated({"lesion_present": present, "pole": pole, "stones": stones}) == [
        {"lesion_present": "no", "stones": SCHEMA.classes["stones"][1]},
        {"lesion_present": "yes", "pole": SCHEMA.classes["pole"][2]},
    ]


def codes_of(facts: list[dict[str, str]]) -> np.ndarray:
    codes = np.full((len(facts), len(NAMES)), -100, dtype=np.int64)
    for row, own in enumerate(facts):
        for name, value in own.items():
            codes[row, NAMES.index(name)] = SCHEMA.classes[name].index(value)
    return codes
