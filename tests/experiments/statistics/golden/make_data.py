"""Writes data.csv: ten made-up groups of patients, with what makes statistics go wrong; answers.R reads it.

Run from the root of the repository: python -m tests.experiments.statistics.golden.make_data
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

FOLDER = Path(__file__).parent


class Setting(NamedTuple):
    """How a group is drawn: patients, share with high risk, hazard ratio, and times rounded up to so many months."""

    n: int
    rare: float
    ratio: float
    rounded: float


SETTINGS = {
    "tiny": Setting(20, 0.3, 3.0, 0.0),
    "tiny_tied": Setting(40, 0.25, 3.0, 6.0),
    "separated": Setting(60, 0.1, 60.0, 0.0),
    "separated_tied": Setting(80, 0.08, 80.0, 2.0),
    "rare_protected": Setting(150, 0.1, 0.02, 0.0),
    "rare_strong": Setting(300, 0.1, 20.0, 0.0),
    "rare_tied": Setting(300, 0.05, 40.0, 3.0),
    "very_rare": Setting(500, 0.02, 50.0, 1.0),
    "moderate": Setting(300, 0.4, 1.8, 0.0),
    "large_tied": Setting(2000, 0.04, 30.0, 0.5),
}


def draw(number: int, setting: Setting) -> pd.DataFrame:
    """One group. In the separated ones every patient of high risk has the event before all others, in the rest not."""
    rng = np.random.default_rng(800 + number)
    n = setting.n
    high = np.arange(n) < max(2, round(setting.rare * n))
    marker = np.round(rng.normal(size=n), 2)
    age = np.round(22000 + 4000 * rng.normal(size=n) + 1500 * marker)
    ordinal = np.clip(np.round(1.5 + 0.8 * marker + 0.7 * rng.normal(size=n)), 0, 3)
    hazard = 0.006 * np.where(high, setting.ratio, 1.0) * np.exp(0.5 * marker + 0.2 * ordinal)
    onset, censoring = rng.exponential(1 / hazard), rng.uniform(12, 100, n)
    if SETTINGS["separated"] == setting or SETTINGS["separated_tied"] == setting:
        onset[high] = rng.uniform(0.1, 4.0, high.sum())
        onset[~high] = np.maximum(onset[~high], 8.0)
    elif setting.ratio < 1:
        onset[:2], censoring[:2] = (20.0, 50.0), 100.0  # else none of them would have the event
    time = np.minimum(onset, censoring)
    time = np.ceil(time / setting.rounded) * setting.rounded if setting.rounded else np.round(time, 4)
    score = np.round(0.8 * marker + 0.6 * high + 0.5 * rng.normal(size=n), 2)
    second = np.round(0.5 * marker + 0.8 * rng.normal(size=n), 1)
    target = rng.random(n) < 1 / (1 + np.exp(0.5 - 0.7 * score))
    place = rng.permutation(n)
    frame = pd.DataFrame(
        {
            "time": time,
            "event": (onset <= censoring).astype(int),
            "high": high.astype(int),
            "marker": marker,
            "age_days": age.astype(int),
            "ordinal": ordinal.astype(int),
            "score": score,
            "second": second,
            "target": target.astype(int),
        }
    )
    return frame.iloc[place]


def main() -> None:
    """Write all groups to one table."""
    groups = [draw(number, setting).assign(group=name) for number, (name, setting) in enumerate(SETTINGS.items())]
    pd.concat(groups).to_csv(FOLDER / "data.csv", index=False)


if __name__ == "__main__":
    main()
