"""Simulated patients whose few of high risk have a hazard ratio of 8 to 40, or who are too few to tell it.

Only uniform draws are taken, whose stream NumPy does not change, so that the patients need not be stored. For R:
python -m tests.experiments.statistics.golden.simulated 150 FILE.csv, then Rscript simulated.R FILE.csv
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

FOLDER = Path(__file__).parent


def simulated(seed: int) -> pd.DataFrame:
    """300 patients, 10 % of high risk; of every third seed 20 to 80. Every second has tied times."""
    rng = np.random.default_rng(seed)
    n = 300 if seed % 3 else 20 + int(60 * rng.random())
    high = rng.random(n) < 0.1
    high[0] = True
    ratio = 8 + 32 * rng.random()
    onset = -np.log1p(-rng.random(n)) / (0.004 * np.where(high, ratio, 1.0))
    censoring = 6 + 54 * rng.random(n)
    time = np.minimum(onset, censoring)
    time = np.ceil(time) if seed % 2 else np.ceil(time * 1024) / 1024  # exact in decimals
    return pd.DataFrame(
        {"seed": seed, "time": time, "event": (onset <= censoring).astype(int), "high": high.astype(int)}
    )


if __name__ == "__main__":
    pd.concat([simulated(seed) for seed in range(int(sys.argv[1]))]).to_csv(sys.argv[2], index=False)
