"""What a proportion of none, or of all, still allows."""

from __future__ import annotations

from scipy.stats import binomtest

LEVEL = 0.95
BOOTSTRAP, CLOPPER_PEARSON = "bootstrap", "Clopper-Pearson"


def unlike_share(units: int) -> float:
    """The largest share of units unlike all those that were seen: Clopper and Pearson's end of 0 of `units`.

    The upper end of the two-sided 95 % interval (Biometrika 1934), 1 - 0.025^(1 / units); about 3.7 / units.
    """
    return float(binomtest(0, units).proportion_ci(LEVEL, method="exact").high)


def unvaried_ends(value: float, lowest: float, highest: float, units: int) -> tuple[float, float]:
    r"""Ends of the 95 % interval of a figure that is the same in every resample of its units.

    .. math:: [v - q (v - a), v + q (b - v)], \quad q = 1 - 0.025^{1/n}

    A share q of the units may be unlike those that were seen, and give anything between the least possible value a and
    the greatest b. Of a share it is Clopper and Pearson's interval of 0 of n or n of n.

    Args:
        value: The figure.
        lowest: Least possible value.
        highest: Greatest possible value.
        units: Independent units, such as patients; at least one.
    """
    unlike = unlike_share(units)
    low, high = value - unlike * (value - lowest), value + unlike * (highest - value)
    return max(lowest, low), min(highest, high)
