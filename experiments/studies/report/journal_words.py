"""Numbers as clinical journals print them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from experiments.statistics.estimate import Estimate
from experiments.statistics.support import mark

NOT_DEFINED = "not defined"


def number(value: float, digits: int = 2) -> str:
    """A number with a true minus sign, and no minus before a rounded 0; `not defined` where it is not."""
    if math.isnan(value):
        return NOT_DEFINED
    if math.isinf(value):
        return "not reached"
    # Beyond two digits before the point the decimals say nothing.
    size = abs(value)
    text = f"{value:.{0 if size >= 100 else min(digits, 1) if size >= 10 else digits}f}"
    return (text[1:] if float(text) == 0 and text.startswith("-") else text).replace("-", "\N{MINUS SIGN}")


def interval(estimate: Estimate, digits: int = 2) -> str:
    """Value and 95 % interval, such as `0.71 (0.64 to 0.78)`."""
    if math.isnan(estimate.value):
        return NOT_DEFINED
    if math.isnan(estimate.low):
        return f"{number(estimate.value, digits)} (interval not defined)"
    ends = f"{number(estimate.low, digits)} to {number(estimate.high, digits)}"
    return f"{number(estimate.value, digits)} ({ends}){mark(estimate.interval)}"


def signed(estimate: Estimate, digits: int = 2) -> str:
    """A difference with its sign and interval, such as `+0.05 (-0.01 to +0.11)`."""
    if math.isnan(estimate.value):
        return NOT_DEFINED
    value, low, high = (_plus(end, digits) for end in (estimate.value, estimate.low, estimate.high))
    if math.isnan(estimate.low):
        return f"{value} (interval not defined)"
    return f"{value} ({low} to {high}){mark(estimate.interval)}"


def percent_signed(estimate: Estimate) -> str:
    """A relative gain in percent with its sign and interval, such as `+7 % (-2 to +15)`."""
    if math.isnan(estimate.value):
        return NOT_DEFINED
    value, low, high = (_plus(100 * end, 0) for end in (estimate.value, estimate.low, estimate.high))
    if math.isnan(estimate.low):
        return f"{value} % (interval not defined)"
    return f"{value} % ({low} to {high}){mark(estimate.interval)}"


def _plus(value: float, digits: int) -> str:
    text = number(value, digits)
    return text if text.startswith("\N{MINUS SIGN}") or float(f"{value:.{digits}f}") == 0 else f"+{text}"


def p_value(value: float) -> str:
    """Two digits from 0.01 on, three below or where two would hide on which side of 0.05 it lies; `<0.001` at most."""
    if math.isnan(value):
        return NOT_DEFINED
    if value < 0.001:
        return "<0.001"
    if value > 0.99:
        return ">0.99"
    return f"{value:.3f}" if value < 0.01 or 0.045 <= value < 0.055 else f"{value:.2f}"


def share(part: int, whole: int) -> str:
    """A count with its percentage in whole percent; few and nearly all are not rounded to none and all."""
    if not whole:
        return "0"
    percent = f"{100 * part / whole:.0f}"
    if percent == "0" and part:
        percent = "<1"
    if percent == "100" and part < whole:
        percent = ">99"
    return f"{part} ({percent} %)"


def median_range(values: pd.Series, digits: int = 0) -> str:
    """Median and quartiles, such as `61 (53 to 70)`."""
    known = values.dropna().to_numpy(dtype=float)
    if not len(known):
        return "not recorded"
    low, middle, high = np.percentile(known, [25, 50, 75])
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def plural(count: int, one: str, many: str = "") -> str:
    """A count with its noun, such as `1 patient`, `3 patients`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def capital(text: str) -> str:
    """The text with its first letter large, but for a term that is written small: pT3, pN1."""
    return text if text[1:2].isupper() else text[:1].upper() + text[1:]
