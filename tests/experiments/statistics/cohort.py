"""Random patients with ties and censoring, and resamples of them as indices and as weights."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Patients(NamedTuple):
    time: np.ndarray
    event: np.ndarray
    risk: np.ndarray


def censored(seed: int, n: int = 80, times: int = 25, risks: int = 12, rate: float = 0.5) -> Patients:
    """Patients with tied times, tied risks, and events that come earlier at a high risk."""
    rng = np.random.default_rng(seed)
    risk = rng.integers(0, risks, n) / 4.0
    event_time, censoring = rng.exponential(np.exp(-risk / 2)), rng.exponential(rate, n)
    time = np.floor(np.minimum(event_time, censoring) * times)
    event = event_time <= censoring
    event[:2] = [True, False]
    return Patients(time, event, risk)


def apart(patients: Patients) -> Patients:
    """The same patients, each censored half a time step later: no censoring falls on the time of an event.

    There scikit-survival weighs an event by the chance of not being censored at its time too, and R by that before.
    """
    return patients._replace(time=patients.time + 0.5 * ~patients.event)


def resamples(n: int, replicates: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The same resamples as indices [R, N] and as weights [R, N]."""
    indices = np.random.default_rng(seed).integers(0, n, (replicates, n))
    weights = np.stack([np.bincount(row, minlength=n) for row in indices]).astype(np.float32)
    return indices, weights
