"""`python -m experiments`: one entry to everything, callable from tests as `main(args)`.

A command line is checked, and help is printed, before anything that takes seconds to import is imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules.errors import DataError
from experiments.front_door.commands import TRAINER_COMMANDS, known
from experiments.front_door.help import command_page, document, overview
from experiments.front_door.options import (
    FROM_MAKE,
    NAMED,
    check_cohort,
    check_options,
    command_options,
    from_words,
    make_words,
    put_into_environment,
    values_of,
)


def main(args: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        args: Command line without the program; `sys.argv` by default.

    Returns:
        Exit code: 0 done, 1 a check or the run failed, 2 bad input, 130 interrupted, 143 terminated; but for the first
        with one sentence on standard error.
    """
    words = list(sys.argv[1:] if args is None else args)
    try:
        if (page := asked_help(words)) is not None:
            print(page)
            return 0
        if words[0] in TRAINER_COMMANDS:
            checked = words
        else:
            checked = check(words)
            check_cohort(checked)
    except DataError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    if checked[0] == "doctor" and "--fast=true" in checked and "--deep=true" not in checked:
        from experiments.doctor import doctor

        given = values_of(checked)
        folders = {name: Path(given[name]) for name in ("data", "runs", "out") if name in given}
        return doctor(**folders, fast=True)  # type: ignore[arg-type]
    from experiments.front_door.execution import run

    return run(checked)


def asked_help(words: Sequence[str]) -> str | None:
    """The page that was asked for, by no word at all, `help`, `help NAME`, `-h` or `NAME --help`; None for others."""
    if not words or words[0] in ("-h", "--help"):
        return overview()
    if list(words) == ["help", "--markdown"]:
        return document()
    if words[0] == "help":
        makeflags = os.environ.get("MAKEFLAGS", "") if FROM_MAKE in words else ""
        named = [word for word in words[1:] if word != FROM_MAKE] or [make_words(makeflags).get("FOR", "")]
        return command_page(known(named[0])) if named[0] else overview()
    if words[0] not in TRAINER_COMMANDS and any(word in ("-h", "--help") for word in words[1:]):
        return command_page(known(words[0]))
    return None


def check(words: Sequence[str]) -> list[str]:
    """A command line in the parser's form, after every name and form in it was checked.

    Args:
        words: The command and its options as --name=value or NAME=value; `--from_make` first where make's are to be
            read.

    Raises:
        DataError: naming what is not known, with the nearest name.
    """
    name, rest = known(words[0]), list(words[1:])
    if rest[:1] == [FROM_MAKE]:
        targets = os.environ.get("MAKE_TARGETS", "").split()
        named = make_words(os.environ.get("MAKEFLAGS", ""))
        rest = [*from_words(name, named, targets), *rest[1:]]
        put_into_environment(named)
    else:
        put_into_environment(dict(word.split("=", 1) for word in rest if NAMED.match(word)))
    if name == "resume" and rest and not rest[0].startswith("-"):
        rest = [f"--run={rest[0]}", *rest[1:]]
    return [name, *check_options(name, command_options(name, rest))]
