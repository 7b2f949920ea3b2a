"""`make pretrain`: the stages in order, each resumable and skipped when it is finished."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace

from datamodules.cohort import Cohort
from experiments.console import is_main_rank, say
from experiments.encoders import folds_of
from experiments.registry import STAGES, choose
from experiments.stages.common import Pretraining
from experiments.tracking import shared_run


def pretrain(wanted: Pretraining) -> None:
    """Run the pretraining stages of a cohort; of a cohort with folds, one run for every fold that will be tested.

    Raises:
        DataError: if the cohort is refused, has nothing to learn from, or a stage is unknown.
    """
    names = wanted.stages or tuple(name for name, entry in STAGES.items() if entry.default)
    for name in names:
        choose("STAGES", name, dict(STAGES))
    cohort = Cohort.load(wanted.data)
    if is_main_rank():
        wanted = replace(wanted, parent=_parent(wanted, cohort))
    steps = [(name, fold) for name in names for fold in folds_of(cohort)]
    for number, (name, fold) in enumerate(steps, start=1):
        title = STAGES[name].title + ("" if fold is None else f", fold {fold}")
        say(f"Stage {number} of {len(steps)}: {title}")
        importlib.import_module(f"experiments.stages.{name}").run(wanted, cohort, fold)


def _parent(wanted: Pretraining, cohort: Cohort) -> str:
    """The MLflow run that the stages of one pretraining share: same cohort, split, profile and seed."""
    seed = str(wanted.seed)
    experiment = f"renal/{cohort.info.name}/pretrain"
    return shared_run(wanted.runs, cohort, experiment, f"pretrain-s{seed}", profile=wanted.profile, seed=seed)


def parse_stages(text: Sequence[str] | None) -> tuple[str, ...]:
    """Stages given on the command line, separated by commas or as a list."""
    return tuple(name for part in text or () for name in part.split(",") if name)
