"""`make pretrain`: the stages in order, each resumable and skipped when it is finished."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jsonargparse import ArgumentError

from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from experiments.pretraining.stages.common import Pretraining, placeholders
from experiments.registry import STAGES, choose
from experiments.runs.configuration import Configuration
from experiments.runs.console import say
from experiments.runs.folders import experiment_of, folds_of, stage_folder
from experiments.runs.locks import training
from experiments.runs.started_ranks import check_launcher
from experiments.runs.tracking import shared_run
from lightning_modules.core.distributed import is_main_rank, wait_for_all_ranks


def pretrain(wanted: Pretraining) -> None:
    """Run the pretraining stages of a cohort; of a cohort with folds, one run for every fold that will be tested.

    Raises:
        DataError: if the cohort is refused, has nothing to learn from, a stage is unknown, or one of those asked for
            does not take a flag.
    """
    check_launcher(wanted.nodes)
    chosen = checked_stages(wanted)
    cohort = Cohort.load(wanted.data)
    if is_main_rank():
        wanted = replace(wanted, parent=_parent(wanted, cohort))
    steps = [(name, fold) for name in chosen for fold in folds_of(cohort)]
    for number, (name, fold) in enumerate(steps, start=1):
        title = STAGES[name].title + ("" if fold is None else f", fold {fold}")
        say(f"Stage {number} of {len(steps)}: {title}")
        base = STAGES[name].variant_of
        variant: tuple[Any, ...] = () if base is None else (name,)
        if chosen[name]:
            variant = (chosen[name],)
        with training(stage_folder(wanted.runs, cohort, name, wanted.seed, fold, wanted.tag)):
            importlib.import_module(f"experiments.pretraining.stages.{base or name}").run(
                wanted, cohort, fold, *variant
            )
        wait_for_all_ranks()  # what rank 0 exports is what the next stage starts from


def chosen_parts(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The stages that were asked for, and of each the parts; none where it is all of them.

    Args:
        names: Stages, or parts of one as `text:mntp`.

    Raises:
        DataError: if a stage or part is unknown.
    """
    chosen: dict[str, tuple[str, ...]] = {}
    whole = set()
    for entry in names:
        name, colon, part = entry.partition(":")
        choose("STAGES", name, dict(STAGES))
        parts = STAGES[name].parts
        if not colon:
            whole.add(name)
        elif not parts:
            raise DataError(f"STAGES={entry} was found; the stage {name} has no parts, write STAGES={name}.")
        else:
            choose(f"STAGES={name}:", part, dict.fromkeys(parts))
        chosen[name] = (*chosen.get(name, ()), *((part,) if colon else ()))
    return {name: () if name in whole else tuple(dict.fromkeys(parts)) for name, parts in chosen.items()}


def checked_stages(wanted: Pretraining) -> dict[str, tuple[str, ...]]:
    """The stages that were asked for and their parts, after the configuration of each was read, before one trains.

    Args:
        wanted: What was asked for; of no stage, those that `make pretrain` runs by default.

    Raises:
        DataError: if a stage or part is unknown, or naming the stage that does not take a flag.
    """
    chosen = chosen_parts(wanted.stages or tuple(name for name, entry in STAGES.items() if entry.default))
    for name, parts in chosen.items() if wanted.extra else ():
        for files in replace(STAGES[name], parts=parts or STAGES[name].parts).files(name, wanted.profile):
            values = {"data.init_args.root": wanted.data, **placeholders(files)}
            try:
                Configuration(tuple(files), values, wanted.extra).resolved()
            except ArgumentError as error:
                others = [other for other in chosen if other != name]
                apart = f"; run it apart from {', '.join(others)} with STAGES= and flags of its own" if others else ""
                raise DataError(
                    f"Stage {name} does not take the flags of --extra ({' '.join(str(error).split())[:300]}); nothing "
                    f"was trained{apart}."
                ) from error
    return chosen


def _parent(wanted: Pretraining, cohort: Cohort) -> str | None:
    """The MLflow run that the stages of one pretraining share: same cohort, split, profile and seed."""
    seed = str(wanted.seed)
    experiment = experiment_of(cohort, "pretrain")
    return shared_run(wanted.runs, cohort, experiment, f"pretrain-s{seed}", profile=wanted.profile, seed=seed)


def parse_stages(text: Sequence[str] | None) -> tuple[str, ...]:
    """Stages given on the command line, separated by commas or as a list."""
    return tuple(name for part in text or () for name in part.split(",") if name)
