"""Risk groups whose cuts come from training patients alone, and the hazard ratios between them."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import pandas as pd

from datamodules.errors import DataError
from experiments.statistics.cox import cox_regression
from experiments.statistics.estimate import survival_arrays


def risk_cuts(training_risk: np.ndarray, groups: int = 2) -> np.ndarray:
    """Cuts into groups of equal size among training patients: two groups are cut at the median.

    Args:
        training_risk: Risks of training patients, never of tested ones [M].
        groups: Number of groups, two or more.

    Returns:
        float64 [groups - 1], increasing.

    Raises:
        DataError: if risks are not finite, or too many are equal to be cut into so many groups.
    """
    risk = np.asarray(training_risk, dtype=np.float64)
    if groups < 2 or not len(risk) or not np.isfinite(risk).all():
        raise DataError(
            f"{groups} groups of {len(risk)} training risks were asked for; expected two or more of finite ones."
        )
    cuts = np.quantile(risk, np.linspace(0, 1, groups + 1)[1:-1])
    if len(np.unique(assign_groups(risk, cuts))) < groups:
        raise DataError(
            f"The {len(np.unique(risk))} distinct training risks cannot be cut into {groups} groups; ask for fewer."
        )
    return cuts


def assign_groups(risk: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Group of every patient: 0 is the lowest risk; a risk equal to a cut belongs to the lower group.

    Returns:
        int64 [N].
    """
    return np.searchsorted(np.asarray(cuts), np.asarray(risk, dtype=np.float64), side="left")


def hazard_ratios(time_months: np.ndarray, event: np.ndarray, group: np.ndarray) -> pd.DataFrame:
    """Hazard ratio of each risk group against the lowest that is present, by Cox regression with Efron's ties.

    Where groups separate the events, as where one has none, all ratios are Firth's.

    Args:
        time_months: Time to event or censoring [N].
        event: Whether the event was observed [N].
        group: Group of each patient, from `assign_groups` [N].

    Returns:
        Columns group, reference, hazard_ratio, low, high, p, n, events (of that group and the reference), method (as of
        `cox_regression`). Where there is no event, or nobody of a group is at risk at one, nothing is known of its
        ratio: NaN, with n and events.

    Raises:
        DataError: as of `survival_arrays`, or if fewer than two groups are present.
        NotConvergedError: if the fit did not converge.
    """
    time, event, _ = survival_arrays(time_months, event)
    group = np.asarray(group)
    names = np.unique(group)
    if group.shape != time.shape or len(names) < 2:
        raise DataError(
            f"{len(names)} risk group of {len(time)} patients was found; a hazard ratio compares two or more."
        )
    first = time[event].min() if event.any() else np.inf
    seen = [name for name in names if (time[group == name] >= first).any()]
    fitted: dict[str, dict[Hashable, float]] = {}
    if len(seen) > 1 and seen[0] == names[0]:
        members = np.isin(group, seen)
        covariates = [str(name) for name in seen[1:]]
        frame = pd.DataFrame({str(name): group[members] == name for name in seen[1:]})
        table = cox_regression(frame, time[members], event[members], covariates, separated="firth").table
        fitted = {row["covariate"]: row for row in table.to_dict("records")}
    rows = []
    for name in names[1:]:
        both = (group == name) | (group == names[0])
        row = fitted.get(str(name), {})
        values = {key: row.get(key, float("nan")) for key in ("hazard_ratio", "low", "high", "p")}
        counts = {"n": int(both.sum()), "events": int(event[both].sum())}
        rows.append({"group": name, "reference": names[0], **values, **counts, "method": row.get("method", "none")})
    return pd.DataFrame(rows)
