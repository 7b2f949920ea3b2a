"""The phantom cohort that a command finds where nobody has drawn it yet."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from datamodules.errors import DataError
from experiments.front_door.commands import definition
from experiments.runs.console import say

DEMO = Path("data/demo")
WITHOUT = ("cohort", "import", "refresh", "data-check", "reports", "encoders", "compare", "report", "score-reports",
           "review", "embed", "doctor")  # fmt: skip
"""Commands that say what is missing in the place of drawing it."""


def draw_if_absent(name: str, args: Sequence[str]) -> None:
    """Draw the demo cohort where a command reads it and it is not there; every name is checked by then.

    Args:
        name: The command.
        args: Its command line, in the parser's form.
    """
    options = dict(word[2:].partition("=")[::2] for word in args[1:])
    data = definition(name).option("data")
    if data is None or name in WITHOUT or Path(options.get("data", str(DEMO))) != DEMO:
        return
    if (DEMO / "cohort.json").is_file():
        return
    if _rank() > 0:
        _wait()
        return
    from experiments.cohorts.cohort_commands import cohort

    say(f"{DEMO} is not there yet and is drawn first: phantoms, about four minutes on two cores.")
    cohort(DEMO, profile=options.get("profile", "demo"))


def _rank() -> int:
    """Number of this process among those that a launcher started; 0 where none did."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


def _wait(hours: float = 2.0) -> None:
    """Wait for the first process to have drawn it."""
    end = time.monotonic() + hours * 3600
    while not (DEMO / "cohort.json").is_file():
        if time.monotonic() > end:
            raise DataError(f"{DEMO} was not drawn by the first process within {hours:g} hours; run `make cohort`.")
        time.sleep(1.0)
