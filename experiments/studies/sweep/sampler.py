"""Which values a trial gets, and which trials end early."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

PRUNERS = {
    "median": "a trial ends whose best epoch so far is below the median of the others at that epoch",
    "hyperband": "Hyperband: successive halving in brackets (Li et al., JMLR 2018)",
    "none": "every trial is trained to its end",
}


class NumberedSampler(BaseSampler):
    """Tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011) whose draws follow from seed and trial number.

    A generator that went on from trial to trial would start anew in every worker and after every interruption, and
    propose the same first values again. Trials that still run count as poor ones, so that workers spread.

    Args:
        seed: Seed of the sweep.
        startup: Trials that are drawn at random before the estimator is asked.
    """

    def __init__(self, seed: int, startup: int = 10) -> None:
        self.seed, self.startup = seed, startup
        self._number, self._sampler = -1, self._made(-1)

    def _made(self, number: int) -> TPESampler:
        seed = int(np.random.SeedSequence([self.seed, number + 1]).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return TPESampler(n_startup_trials=self.startup, multivariate=True, constant_liar=True, seed=seed)

    def _of(self, trial: FrozenTrial) -> TPESampler:
        if trial.number != self._number:
            self._number, self._sampler = trial.number, self._made(trial.number)
        return self._sampler

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What is drawn together."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values drawn together."""
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """One value by itself."""
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Before a trial."""
        self._of(trial).before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """After a trial."""
        self._of(trial).after_trial(study, trial, state, values)


def make_pruner(name: str, epochs: int) -> BasePruner:
    """The pruner of that name.

    Args:
        name: One of `PRUNERS`.
        epochs: Epochs of a whole trial.
    """
    if name == "hyperband":
        return HyperbandPruner(min_resource=1, max_resource=epochs, reduction_factor=3)
    if name == "median":
        return MedianPruner(n_startup_trials=5, n_warmup_steps=max(1, epochs // 5))
    return NopPruner()
