"""The phantom cohort that a command finds where nobody has drawn it yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.front_door.commands import definition
from experiments.front_door.options import values_of
from experiments.runs.console import say
from experiments.runs.started_ranks import wait_for_main
from lightning_modules.core.distributed import is_main_rank

DEMO = Path("data/demo")
WITHOUT = ("cohort", "import", "refresh", "data-check", "reports", "encoders", "compare", "report", "score-reports",
           "review", "embed", "assess", "doctor")  # fmt: skip
"""Commands that say what is missing in the place of drawing it."""


def draw_if_absent(name: str, args: Sequence[str]) -> None:
    """Draw the demo cohort where a command reads it and it is not there; every name is checked by then.

    Args:
        name: The command.
        args: Its command line, in the parser's form.
    """
    options = values_of(args)
    data = definition(name).option("data")
    if data is None or name in WITHOUT or Path(options.get("data", str(DEMO))) != DEMO:
        return
    there = (DEMO / "cohort.json").is_file
    if there():
        return
    if not is_main_rank():
        wait_for_main("demo cohort", there)
        return
    from experiments.cohorts.cohort_commands import cohort

    say(f"{DEMO} is not there yet and is drawn first: phantoms, about four minutes on two cores.")
    cohort(DEMO, profile=options.get("profile", "demo"))
