"""A command that was checked, run: its failures as sentences, its processes ended with it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from callbacks.interruption import Terminated, ending_on_sigterm
from datamodules.engine.pool import chosen_engine
from datamodules.processes import end_with_parent
from experiments.front_door.commands import COMMANDS, SHORT, TRAINER_COMMANDS
from experiments.front_door.demo_cohort import draw_if_absent
from experiments.runs.console import configure_output
from experiments.runs.failures import end
from experiments.runs.gate import check_arguments, check_names_and_seeds


def function_of(command: str) -> Callable[..., int]:
    """The function behind a command."""
    module, name = COMMANDS[command].split(":")
    function: Callable[..., int] = getattr(importlib.import_module(module), name)
    return function


def _at_home(word: str) -> str:
    """`--name=~/x` with the home folder: a shell replaces `~` at the start of a word only."""
    flag, equals, value = word.partition("=")
    return f"{flag}={Path(value).expanduser()}" if equals and value.startswith("~/") else word


def dispatch(args: Sequence[str]) -> int:
    """Call what a command line names.

    Args:
        args: A command line in the parser's form, as `experiments.cli.check` gives it.

    Returns:
        The exit code.
    """
    words = [_at_home(word) for word in args]
    check_arguments(words)
    check_names_and_seeds(words)
    if words[0] in TRAINER_COMMANDS:
        from experiments.runs.suite_cli import SuiteCLI

        SuiteCLI(words)
        return 0
    name = SHORT[words[0]][0] if words[0] in SHORT else words[0]
    chosen_engine()
    draw_if_absent(name, words)
    commands: dict[str, Any] = {name: function_of(name)}
    program = "renal-vlm"
    result = auto_cli(commands, args=[name, *words[1:]], as_positional=False, exit_on_error=False, prog=program)
    return int(result or 0)


def run(args: Sequence[str]) -> int:
    """Call what a command line names, and say in one sentence why it failed.

    Args:
        args: A command line in the parser's form.

    Returns:
        The exit code, as `experiments.cli.main` explains it.
    """
    configure_output()
    if int(os.environ.get("LOCAL_RANK") or 0) > 0:  # started by a launcher or by rank 0
        end_with_parent()
    try:
        with ending_on_sigterm():
            return dispatch(args)
    except (Exception, KeyboardInterrupt, Terminated) as error:
        return end(error)
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning makes an exit of it
            return end(stop)
        raise
