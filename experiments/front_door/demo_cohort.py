"""The phantom cohort that a command finds where nobody has drawn it yet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from experiments.front_door.options import values_of
from experiments.runs.console import say
from experiments.runs.started_ranks import wait_for_main
from lightning_modules.core.distributed import is_main_rank

DEMO = Path("data/demo")
DRAWN_FOR = ("pretrain", "finetune", "curve", "sweep", "attributes", "radiomics", "volumes", "qc", "figure")
"""Commands that need nothing but a cohort; all others ask for what these made of it, and say so."""


def draw_if_absent(name: str, args: Sequence[str]) -> None:
    """Draw the demo cohort where a command reads it and it is not there; every name and setting is checked by then.

    Args:
        name: The command.
        args: Its command line, in the parser's form.

    Raises:
        DataError: if a stage does not take a setting.
        ArgumentError: if fine-tuning does not take one.
    """
    options = values_of(args)
    if name not in DRAWN_FOR or Path(options.get("data", str(DEMO))) != DEMO:
        return
    there = (DEMO / "cohort.json").is_file
    if there():
        return
    if not is_main_rank():
        wait_for_main("demo cohort", there)
        return
    _check_settings(name, options)
    from experiments.cohorts.cohort_commands import cohort

    say(f"{DEMO} is not there yet and is drawn first: phantoms, about four minutes on two cores.")
    cohort(DEMO, profile=options.get("profile", "demo"))


def _check_settings(name: str, options: Mapping[str, str]) -> None:
    """Read the configuration with the user's settings over it, as the command will once the cohort is there."""
    flags = tuple(json.loads(options.get("extra", "[]")))
    if "params" in options:
        flags = (f"--config={options['params']}", *flags)
    if not flags:
        return
    profile = options.get("profile", "demo")
    if name == "pretrain":
        from experiments.pretraining.pretrain import Pretraining, checked_stages, parse_stages

        stages = parse_stages(yaml.safe_load(options.get("stages", "[]")))
        checked_stages(Pretraining(stages, profile, DEMO, extra=flags))
    elif name in ("finetune", "curve", "sweep"):
        from experiments.finetuning.finetune import ALL_TASKS
        from experiments.finetuning.point import Point

        task, encoder = (options.get(key, standard) for key, standard in (("task", ALL_TASKS), ("encoder", "best")))
        point = Point(
            "malignancy" if task == ALL_TASKS else task,
            encoder="scratch" if encoder == "best" else encoder,
            profile=profile,
            data=DEMO,
            extra=flags,
            mode=options.get("mode", "finetune"),
        )
        point.configuration({}).resolved()
