"""Which maps pass: every aim counts, results of other weights count for nothing, and no patient is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.attribution.tested_maps import (
    FLOOR,
    MAPS,
    POINTING,
    as_content,
    erased_table,
    failures,
    map_table,
    method_shown,
    read_tested,
    weights_of,
    write_tested,
)


def trials(method: str = "occlusion", **better: float) -> pd.DataFrame:
    """Forty kidneys of a map that passes, with some values moved."""
    rng = np.random.default_rng(0)
    count = 40
    frame = pd.DataFrame({"patient": np.arange(count), "question": "malignancy", "method": method, "seconds": 2.0})
    frame["pointing"], frame["floor_pointing"] = (rng.random(count) < 0.95).astype(float), 0.0
    frame["deletion"], frame["floor_deletion"] = 0.4 + 0.1 * rng.random(count), 0.1
    frame["insertion"], frame["floor_insertion"] = 0.4 + 0.1 * rng.random(count), 0.1
    frame["random_pointing"], frame["alike"] = 0.05, 0.1
    for name, value in better.items():
        frame[name] = value
    return frame


def kept(*frames: pd.DataFrame, weights: str = "a") -> dict[str, object]:
    erased = pd.DataFrame({"patient": [0, 1], "question": "malignancy", "lesion": [0.3, 0.4], "parenchyma": [0.0, 0.1]})
    table = map_table(pd.concat(frames), replicates=200)
    seconds = {str(frame["method"].iloc[0]): 2.0 for frame in frames}
    return as_content(table, erased_table(erased, 50), seconds, {"weights": weights})


def test_a_map_that_meets_every_aim_passes() -> None:
    table = map_table(trials(), replicates=200)
    assert failures(table) == []
    row = table.set_index("statistic").loc[f"{POINTING} above {FLOOR}"]
    assert row["low"] <= row["value"] <= row["high"]
    always = map_table(trials(pointing=1.0, floor_pointing=0.0), replicates=200)
    shares = always[always["statistic"].isin([POINTING, f"{POINTING}, {FLOOR}"])]
    assert shares["low"].ge(0).all()  # a share stays one where nobody differs
    assert shares["high"].le(1).all()
    assert row["n"] == 40


@pytest.mark.parametrize(
    ("moved", "reason"),
    [
        ({"pointing": 0.7}, "less than 80%"),
        ({"floor_pointing": 1.0}, "pointing not above"),
        ({"floor_deletion": 0.6}, "deletion not above"),
        ({"floor_insertion": 0.6}, "insertion not above"),
        ({"random_pointing": 1.0}, "points no better"),
        ({"alike": -0.8}, "alike with random weights"),
        ({"alike": np.nan}, "not held against random weights"),
    ],
)
def test_a_map_that_misses_one_aim_is_not_shown(moved: dict[str, float], reason: str) -> None:
    found = failures(map_table(trials(**moved), replicates=200))
    assert len(found) == 1
    assert reason in found[0]


def test_of_maps_that_passed_the_one_that_points_best_is_shown(tmp_path: Path) -> None:
    content = kept(trials(), trials("regions", pointing=1.0), trials("gradient", pointing=0.5))
    write_tested(tmp_path, content)
    tested = read_tested(tmp_path, "a")
    assert tested is not None
    assert method_shown(tested, "malignancy") == "regions"
    assert method_shown(tested, "attribute margin") is None
    assert method_shown(None, "malignancy") is None
    assert tested["questions"]["malignancy"]["gradient"]["failed"]


def test_kinds_of_maps_may_be_tested_one_after_the_other(tmp_path: Path) -> None:
    write_tested(tmp_path, kept(trials("regions", pointing=1.0)))
    write_tested(tmp_path, kept(trials("gradient", pointing=0.5)))
    tested = read_tested(tmp_path, "a")
    assert tested is not None
    assert set(tested["questions"]["malignancy"]) == {"regions", "gradient"}
    assert method_shown(tested, "malignancy") == "regions"


def test_results_of_other_weights_count_for_nothing_and_give_way(tmp_path: Path) -> None:
    assert read_tested(tmp_path, "a") is None
    write_tested(tmp_path, kept(trials()))
    assert read_tested(tmp_path, weights_of("other")) is None
    write_tested(tmp_path, kept(trials().assign(question="attribute margin")))
    both = read_tested(tmp_path, "a")
    assert both is not None
    assert set(both["questions"]) == {"malignancy", "attribute margin"}
    write_tested(tmp_path, kept(trials().assign(question="rfs"), weights="b"))
    other = read_tested(tmp_path, "b")
    assert other is not None
    assert set(other["questions"]) == {"rfs"}
    assert "patient" not in (tmp_path / MAPS).read_text()
