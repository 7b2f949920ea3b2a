"""The study of a sweep: made or found, searched by any number of workers, and gone on with after an interruption."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import optuna
from filelock import SoftFileLease
from optuna.trial import FrozenTrial, TrialState

from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from experiments.runs.console import say
from experiments.runs.launch import differences, identity
from experiments.runs.locks import LOCK, held, lease, taken
from experiments.runs.tracking import cohort_tags
from experiments.studies.sweep.sampler import NumberedSampler, make_pruner
from experiments.studies.sweep.search_space import Value, contains
from experiments.studies.sweep.storage import fail_stale, open_storage, original_number, retry
from experiments.studies.sweep.trials import TRIAL_FAILS, Sweep, TooManyFailuresError, TrialObjective

WAIT_S = 5.0
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def open_study(
    plan: Sweep, cohort: Cohort, url: str, pruner: str, own: dict[str, Value], resolved: dict[str, Any]
) -> optuna.Study:
    """The study, made or found; one that searches something else is refused.

    Its first trial are the configuration's own values, so that the best ones are compared with them.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    tags = cohort_tags(cohort)
    fixed = {key: tags[key] for key in ("cohort_hash", "split_hash")} | {"pruner": pruner}
    fixed |= {f"space {path}": text for path, text in plan.space.described().items()}
    fixed |= {key: str(value) for key, value in identity(resolved).items()}
    with held(plan.folder / ".study.lock"):
        study = optuna.create_study(
            study_name=f"{plan.point.experiment(cohort)}/{plan.folder.name}",
            storage=open_storage(url, plan.folder),
            sampler=NumberedSampler(plan.point.seed),
            pruner=make_pruner(pruner, int(resolved["trainer"]["max_epochs"])),
            direction="maximize",
            load_if_exists=True,
        )
        known = study.user_attrs.get("fixed")
        if known is None:
            study.set_user_attr("fixed", fixed)
            outside = [path for path, found in plan.space.distributions.items() if not contains(found, own[path])]
            if outside:
                what = f"{outside[0]} = {own[outside[0]]}"
                say(f"The configuration's own values are not tried: {what} is not in the space.")
            else:
                study.enqueue_trial(own)
        elif differing := differences(known, fixed):
            raise DataError(
                f"Sweep {plan.folder.name} exists with other settings ({'; '.join(differing[:4])}); its trials cannot "
                "be compared with these. Give this one a name of its own with TAG=."
            )
    return study


def search(plan: Sweep, study: optuna.Study, objective: TrialObjective, trials: int) -> None:
    """Run trials until the study has as many as wanted, over all workers."""
    waiting, claims = False, dict[Path, SoftFileLease]()
    found = _release(plan, study, claims)
    say(f"{trials} trials, of which {sum(trial.state in _FINISHED for trial in found)} are finished already.")
    while True:
        found = _release(plan, study, claims)
        finished = sum(trial.state in _FINISHED for trial in found)
        running = sum(trial.state == TrialState.RUNNING for trial in found)
        if finished >= trials:
            return
        if finished + running >= trials:
            if not waiting:
                say(f"{running} trials run in other workers; waiting for them, or for their workers to fall silent.")
            waiting = True
            time.sleep(WAIT_S)
            continue
        try:
            study.optimize(objective, n_trials=1, catch=TRIAL_FAILS)
        except KeyboardInterrupt:
            retry(study, objective.current)
            raise
        except TooManyFailuresError as error:
            raise DataError(
                f"The sweep stops, since trials fail one after the other, the last with: {error}"
            ) from error


def _release(plan: Sweep, study: optuna.Study, claims: dict[Path, SoftFileLease]) -> list[FrozenTrial]:
    """Fail and queue again the trials that nobody works on any more.

    On a shared disk the claim of a trial's folder says at once that its process is dead; elsewhere the database notices
    that a worker fell silent.

    Returns:
        All trials of the study.
    """
    fail_stale(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        path = plan.trial_folder(original_number(trial)) / LOCK
        if not path.is_file():  # not claimed yet, or on another disk
            continue
        claim = claims.setdefault(path, lease(path))
        if taken(claim):
            try:
                if study.get_trials(deepcopy=False)[trial.number].state == TrialState.RUNNING:
                    say(f"Trial {trial.number} was left behind and is queued again.")
                    retry(study, trial.number)
            finally:
                claim.release()
    return study.get_trials(deepcopy=False)
