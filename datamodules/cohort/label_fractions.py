"""Label fractions: which of a task's training patients a share of the labels is."""

from __future__ import annotations

import numpy as np
import pandas as pd

from datamodules.cohort.keyed_order import keyed_order, keyed_units
from datamodules.errors import DataError

FRACTIONS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.0)
MINIMUM_PER_CLASS = 3
MINIMUM_EVENTS = 5


def label_order(patient_ids: list[str], outcomes: list[str], centers: list[str], seed: int, task: str) -> list[str]:
    """One order of training patients whose prefixes are the label fractions of a task.

    Within an outcome and centre patients stand in the order of their keyed hashes. The centres of an outcome, and then
    the outcomes, are interleaved in proportion, so that every prefix is stratified by outcome first and by centre
    within an outcome: fractions are nested, and small ones still hold both classes.

    Guaranteed: the order among the patients of one outcome and centre depends on them alone. Whoever is added
    reorders none of them, and a centre that is added none of one outcome. A fraction thus holds the first of every
    outcome and centre in proportion, and one further patient puts at most one other of the same out of it, by the
    hash, and shifts the share of the others by no more than rounding does.

    Args:
        patient_ids: Training patients.
        outcomes: Class or event of each, as text.
        centers: Centre of each.
        seed: Seed of the run.
        task: Name of the task; two tasks have two orders.

    Returns:
        The patients in order.
    """
    rows = pd.DataFrame({"patient": patient_ids, "outcome": outcomes, "center": centers})
    rows = rows.iloc[keyed_order(patient_ids, seed, f"label order of {task}")]
    rows["place"] = _spread(rows, ["outcome", "center"], seed)
    rows = rows.sort_values(["place", "patient"])
    rows["place"] = _spread(rows, ["outcome"], seed)
    order: list[str] = rows.sort_values(["place", "patient"])["patient"].tolist()
    return order


def _spread(rows: pd.DataFrame, stratum: list[str], seed: int) -> pd.Series:
    """Where each row stands in [0, 1): those of a stratum of n at (i + u) / n in their order.

    One keyed offset u per stratum, so that a prefix of any length is within one member of each stratum's share.
    """
    groups = rows.groupby(stratum, sort=False)["patient"]
    names = list(map(tuple, rows[stratum].to_numpy().tolist()))
    return (groups.cumcount() + keyed_units(names, seed, "offset of a stratum")) / groups.transform("size")


def label_fraction(order: list[str], outcomes: dict[str, str], fraction: float, *, survival: bool = False) -> list[str]:
    """The first `fraction` of the order.

    Args:
        order: What `label_order` returned.
        outcomes: Class, or event as '0' / '1', of each patient.
        fraction: Share of the training labels, in (0, 1].
        survival: Whether outcomes are events.

    Returns:
        The chosen patients; a smaller fraction is always a prefix of a larger one.

    Raises:
        DataError: if the fraction is out of range, or leaves fewer than 3 patients of a class or 5 events; the
            message names the smallest fraction that works.
    """
    if not 0.0 < fraction <= 1.0:
        raise DataError(
            f"FRACTION={fraction:g} was asked for; expected a share of the labels in (0, 1], for example 0.2."
        )
    # A product such as 0.1 * 70 is 7.000000000000001: rounded first, or one patient too many is taken.
    count = int(np.ceil(round(fraction * len(order), 9)))
    needed = _smallest_count(order, outcomes, survival)
    if needed is None:
        least = f"{MINIMUM_EVENTS} events" if survival else f"{MINIMUM_PER_CLASS} patients of each class"
        raise DataError(
            f"The training split holds {_tally(order, outcomes)}; expected at least {least} at FRACTION=1.0."
        )
    if count < needed:
        smallest = next((value for value in FRACTIONS if np.ceil(round(value * len(order), 9)) >= needed), 1.0)
        least = f"{MINIMUM_EVENTS} events" if survival else f"{MINIMUM_PER_CLASS} of each class"
        raise DataError(
            f"FRACTION={fraction:g} leaves {count} of {len(order)} training patients "
            f"({_tally(order[:count], outcomes)}); "
            f"expected at least {least}. The smallest fraction that works is {smallest:g}."
        )
    return order[:count]


def _tally(chosen: list[str], outcomes: dict[str, str]) -> str:
    values = [outcomes[patient] for patient in chosen]
    return ", ".join(f"{values.count(value)} of {value!r}" for value in sorted(set(outcomes.values())))


def _smallest_count(order: list[str], outcomes: dict[str, str], survival: bool) -> int | None:
    wanted = {"1": MINIMUM_EVENTS} if survival else dict.fromkeys(set(outcomes.values()), MINIMUM_PER_CLASS)
    if not survival and len(wanted) < 2:
        return None
    left = dict(wanted)
    for count, patient in enumerate(order, start=1):
        if outcomes[patient] in left:
            left[outcomes[patient]] -= 1
        if all(value <= 0 for value in left.values()):
            return count
    return None
