"""What a sweep found: its trials, the importance of parameters, and the best values in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import optuna
import pandas as pd
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from experiments.scores.outcomes import Metric
from experiments.scores.results_table import with_interval
from experiments.studies.sweep.search_space import Space, Value, edges
from experiments.studies.sweep.storage import original_number
from experiments.studies.sweep.trials import words

FEW = 10
"""Complete trials below which an importance says little."""
_STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def trial_table(trials: Sequence[FrozenTrial], space: Space, metric: Metric) -> pd.DataFrame:
    """The trials as a table.

    Args:
        trials: Trials of the study.
        space: What is searched.
        metric: Metric of the task.

    Returns:
        Columns trial, state (complete, pruned, failed, running, waiting), goes_on_with (the interrupted trial, missing
        for others), value (validation metric of the best epoch; of a pruned trial that of its last), low, high,
        interval (its method), n and what is counted of the validation patients, epochs reported, seconds, and one
        column a parameter.
    """
    rows = []
    for trial in trials:
        original = original_number(trial)
        last = next(reversed(trial.intermediate_values.values()), np.nan)
        row: dict[str, object] = {"trial": trial.number, "state": _STATES.get(trial.state, trial.state.name.lower())}
        row |= {"goes_on_with": pd.NA if original == trial.number else original}
        row |= {"value": last if trial.value is None else trial.value}
        row |= {name: trial.user_attrs.get(name, np.nan) for name in ("low", "high", "interval", "n", metric.count)}
        row |= {"epochs": len(trial.intermediate_values)}
        row |= {"seconds": np.nan if trial.duration is None else round(trial.duration.total_seconds(), 1)}
        rows.append(row | {path: trial.params.get(path) for path in space.distributions})
    return pd.DataFrame(rows).astype({"goes_on_with": "Int64"})


def importances(study: optuna.Study) -> dict[str, float]:
    """Share of the variance of the validation metric that each parameter explains, the largest first.

    By functional analysis of variance over complete trials (Hutter et al., ICML 2014), seeded; empty where fewer than
    two trials are complete or all have the same value.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len({trial.value for trial in complete}) < 2:
        return {}
    varied = [name for name in complete[0].params if len({trial.params[name] for trial in complete}) > 1]
    if not varied:
        return {}
    return dict(get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0), params=varied))


def best_sentences(
    study: optuna.Study, space: Space, metric: Metric, own: Mapping[str, Value], shares: Mapping[str, float]
) -> list[str]:
    """What the sweep found, with n, events and interval of the validation patients.

    Args:
        study: The study; at least one trial is complete.
        space: What was searched.
        metric: Metric of the task.
        own: Values of the configuration itself, by path.
        shares: Importance of every parameter.
    """
    trials, best = study.get_trials(deepcopy=False), study.best_trial
    counts = {state: sum(trial.state == state for trial in trials) for state in _STATES}
    told = f"{counts[TrialState.COMPLETE]} complete, {counts[TrialState.PRUNED]} pruned"
    finished = counts[TrialState.COMPLETE] + counts[TrialState.PRUNED]
    sentences = [
        f"Best of {finished} trials ({told}): trial {best.number}, validation {metric.title} "
        f"{_estimate(best, metric)}, with {words(best.params)}.",
        "It is the highest of its trials on the patients that chose it, so it is optimistic; no trial opened the test.",
    ]
    default = next((t for t in trials if t.state == TrialState.COMPLETE and t.params == dict(own)), None)
    if default is not None:
        sentences.append(
            f"The configuration's own values: trial {default.number}, validation {metric.title} "
            f"{_estimate(default, metric)}."
        )
    if shares:
        few = f", of {counts[TrialState.COMPLETE]} complete trials only" if counts[TrialState.COMPLETE] < FEW else ""
        listed = ", ".join(f"{path} {share:.0%}" for path, share in shares.items())
        sentences.append(f"Share of the variance explained{few}: {listed}.")
    return sentences + edges(space, best.params)


def _estimate(trial: FrozenTrial, metric: Metric) -> str:
    found = trial.user_attrs
    value = with_interval(float(trial.value or 0), float(found["low"]), float(found["high"]), found["interval"])
    return f"{value}, n {found['n']:.0f} ({found[metric.count]:.0f} {metric.count_title})"
