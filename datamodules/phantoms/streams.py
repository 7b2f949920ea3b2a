"""Random numbers that depend on the seed and the patient alone."""

from __future__ import annotations

import zlib

import numpy as np

_GOLDEN = (5.0**0.5 - 1.0) / 2.0


def stream(seed: int, patient_id: str, purpose: str) -> np.random.Generator:
    """A generator for one purpose, so that drawing more for another purpose moves nothing here."""
    return np.random.default_rng([seed, zlib.crc32(f"{patient_id}/{purpose}".encode())])


def quantile(seed: int, patient_id: str, purpose: str) -> float:
    """A number in [0, 1) that is spread evenly over the patients of a centre.

    Consecutive patients step by the golden ratio, so a centre of any size holds every subtype nearly in proportion
    and no centre is more malignant than another by chance; a patient still depends on seed and pseudonym alone.
    """
    center, _, number = patient_id.rpartition("-")
    return float((stream(seed, center, purpose).random() + int(number) * _GOLDEN) % 1.0)


def chance(rng: np.random.Generator, base: float, *effects: float) -> bool:
    """A coin whose log-odds are those of `base` plus the effects; it draws one number whatever they are."""
    draw = rng.random()
    if base <= 0.0:
        return False
    odds = base / (1.0 - base) * float(np.exp(sum(effects)))
    return bool(draw < odds / (1.0 + odds))
