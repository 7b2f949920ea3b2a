"""How sure the curves of a survival task are: calibrated on validation patients, with a bound that most outlive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from experiments.doubt.calibrators import NONE
from experiments.doubt.prediction_sets import CONFIDENCE
from experiments.doubt.survival_bounds import LowerBounds, fit_lower_bounds
from experiments.doubt.survival_calibrators import (
    ChosenSurvival,
    choose_survival_calibrator,
    cumulative_hazard,
)
from experiments.doubt.task_doubt import FORMAT
from experiments.scores.outcomes import FOLD, RISK, by_fold, endpoints_of
from experiments.scores.survival_curves import curve_columns, curve_months, predicted_survival
from experiments.statistics.horizons import HORIZONS_MONTHS


@dataclass(frozen=True)
class PredictedCurves:
    """Some patients with their outcome and curves.

    Args:
        rows: The patients, as the predictions hold them.
        time_months: Time to event or censoring [N].
        event: Whether the event was observed [N].
        months: Rising times that some curve was predicted at [T], the first 0.
        survival: Predicted survival at these times [N, T]; NaN beyond the end of a curve.
        own: Predicted survival at the own time, or at the curve's end [N].
    """

    rows: pd.DataFrame
    time_months: np.ndarray
    event: np.ndarray
    months: np.ndarray
    survival: np.ndarray
    own: np.ndarray

    @classmethod
    def of(cls, rows: pd.DataFrame, endpoint: str) -> PredictedCurves:
        """Those of predictions of whom the endpoint is known."""
        known = rows[rows[f"{endpoint}_event"].notna() & rows[f"{endpoint}_months"].notna()].reset_index(drop=True)
        time = known[f"{endpoint}_months"].to_numpy(dtype=np.float64)
        months = np.unique(np.append(0.0, curve_months(known)))
        survival = predicted_survival(known, months)
        own = np.array([_at(months, curve, at) for curve, at in zip(survival, time, strict=True)])
        return cls(known, time, known[f"{endpoint}_event"].to_numpy(dtype=bool), months, survival, own)

    def at(self, horizon_months: float) -> np.ndarray:
        """Predicted survival at a time [N]; NaN where a curve ends before."""
        return predicted_survival(self.rows, [horizon_months])[:, 0]

    def of_fold(self, fold: int | None) -> np.ndarray:
        """Which patients are of a fold, bool [N]; all of them under None."""
        members: np.ndarray = np.ones(len(self.rows), bool) if fold is None else self.rows[FOLD].to_numpy() == fold
        return members

    def within(self) -> tuple[np.ndarray, np.ndarray]:
        """Cumulative hazard at the own time or the curve's end, and whether the event was seen by then [N]."""
        end = np.array([self.months[np.isfinite(curve)].max() for curve in self.survival])
        return cumulative_hazard(self.own), self.event & (self.time_months <= end)


def _at(months: np.ndarray, curve: np.ndarray, time: float) -> float:
    known = np.isfinite(curve)
    return float(np.interp(time, months[known], curve[known]))


@dataclass(frozen=True)
class SurvivalDoubt:
    """What validation patients say of the curves of a survival task.

    Args:
        endpoint: The endpoint that the task was trained on.
        chosen: The calibrator by fold, under None where there are no folds.
        bounds: The lower bounds, by fold.
        tested: The tested patients.
        bound_months: Their lower bounds in months [N].
    """

    endpoint: str
    chosen: Mapping[int | None, ChosenSurvival]
    bounds: Mapping[int | None, LowerBounds]
    tested: PredictedCurves
    bound_months: np.ndarray

    def calibrated(self, survival: np.ndarray) -> np.ndarray:
        """Calibrated probabilities [N, ...] of predicted ones of the tested patients."""
        found = np.array(survival, dtype=np.float64)
        for fold, one in self.chosen.items():
            members = self.tested.of_fold(fold)
            found[members] = one.calibrator(found[members])
        return found

    @property
    def methods(self) -> str:
        """The methods that were chosen, in words."""
        names = dict.fromkeys(one.calibrator.method for one in self.chosen.values())
        return ", ".join("no change of the curves" if name == NONE else name for name in names)

    def to_dict(self) -> dict[str, Any]:
        """Calibrators and bounds as plain data; no patient."""
        return {
            "format": FORMAT,
            "endpoint": self.endpoint,
            "calibrators": [
                {
                    "fold": fold,
                    "validation_patients": one.n,
                    "validation_events": one.events,
                    "weighted_log_loss": dict(one.loss),
                    **one.calibrator.to_dict(),
                    "bounds": {
                        "confidence": CONFIDENCE,
                        "level": self.bounds[fold].level,
                        "last_months": self.bounds[fold].last_months,
                    },
                }
                for fold, one in self.chosen.items()
            ],
        }


def survival_doubt(predictions: pd.DataFrame, seed: int = 0) -> SurvivalDoubt | None:
    """Calibrate the curves of a survival task by its validation patients, and bound survival from below.

    Level and spread are chosen by cross-validation and fitted on all validation patients; bounds are chosen on the same
    patients' predicted curves, which a rising map of all curves leaves as they are.

    Args:
        predictions: As `PredictionWriter` writes them.
        seed: Seed of the cross-validation.

    Returns:
        None of another task, of predictions without curves, or where the validation patients of a fold have no event.
    """
    if RISK not in predictions or not curve_columns(predictions):
        return None
    endpoint = endpoints_of(predictions)[0]
    chosen: dict[int | None, ChosenSurvival] = {}
    bounds: dict[int | None, LowerBounds] = {}
    for fold, own in by_fold(predictions):
        held = PredictedCurves.of(own[own["part"] == "val"], endpoint)
        if not held.event.any():
            return None
        hazard, event = held.within()
        at = predicted_survival(held.rows, HORIZONS_MONTHS)
        chosen[fold] = choose_survival_calibrator(held.time_months, event, hazard, at, seed)
        bounds[fold] = fit_lower_bounds(held.time_months, held.event, held.own)
    tested = PredictedCurves.of(predictions[predictions["part"] == "test"], endpoint)
    bound = np.full(len(tested.rows), np.nan)
    for fold, one in bounds.items():
        members = tested.of_fold(fold)
        bound[members] = one(tested.months, tested.survival[members])
    return SurvivalDoubt(endpoint, chosen, bounds, tested, bound)
