"""What a user wrote: options of a command line or of make, checked by name and form before anything is done."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from datamodules.errors import DataError
from experiments.front_door.commands import COMMANDS, SHORT, Command, Option, definition
from experiments.registry import ENCODERS, did_you_mean

FROM_MAKE = "--from_make"
"""First flag of a command that make starts: its NAME=value stand in MAKEFLAGS, its targets in MAKE_TARGETS."""

MAKE_OWN = ("ARGS", "BASE_PYTHON", "LAUNCH", "PYTEST", "TESTERS", "FOR")
"""Variables of the Makefile itself, which are no options of a command."""

NAMED = re.compile(r"[A-Za-z_][\w.]*=")
"""How an option as NAME=value begins, as make takes it."""

_COUNTS = ("workers", "jobs", "nodes", "points", "trials", "replicates", "batch")
"""Options that count something of which there is at least one."""

STUDY = "study"
STUDY_COMMANDS = ("pretrain", "zeroshot", "curve", "report")
"""What `make submit JOB=study` consists of."""

ENVIRONMENT = {"WEIGHTS": "RENAL_WEIGHTS", "STORAGE": "SWEEP_STORAGE", "ENGINE": "RENAL_ENGINE"}
"""NAMEs of make that commands read from the environment: the folder of published weights, a sweep's database, whose URL
may hold a password and is therefore on no command line, and where tasks are worked off."""


def put_into_environment(words: Mapping[str, str]) -> None:
    """Put the NAMEs that commands read from the environment there.

    Args:
        words: Values by NAME, of make's command line or of the command's own.
    """
    os.environ.update({variable: words[name] for name, variable in ENVIRONMENT.items() if words.get(name)})


def make_words(makeflags: str) -> dict[str, str]:
    """The NAME=value of make's command line, from the variable MAKEFLAGS of the processes that it starts.

    Args:
        makeflags: For example ` -j2 -- TASK=rfs OUT=a\\ b`; make writes blanks and backslashes with a backslash, and
            each dollar twice.
    """
    _, separator, text = f" {makeflags}".partition(" -- ")
    if not separator:
        return {}
    words = re.findall(r"(?:\\.|[^\s\\])+", text)
    plain = (re.sub(r"\\(.)", r"\1", word).replace("$$", "$") for word in words)
    # make writes the last one first.
    return dict(reversed([(name, value) for name, equals, value in (word.partition("=") for word in plain) if equals]))


def from_words(name: str, words: Mapping[str, str], targets: Sequence[str] = ()) -> list[str]:
    """The command line that NAME=value stand for.

    NAME is an option in capitals; `a.b=value` is a setting of the configuration; ARGS holds further flags as they are.

    Args:
        name: The command.
        words: Values by NAME.
        targets: All targets of the call; a NAME that another one takes is left to it.

    Raises:
        DataError: naming what no target takes, with the nearest name.
    """
    command = definition(name)
    flags: list[str] = []
    passed: list[str] = []
    for word, value in words.items():
        if word in MAKE_OWN or word in ENVIRONMENT or value == "":
            continue
        if word == word.upper() and word != "EXTRA" and command.option(word.lower()) is not None:
            flags.append(f"--{word.lower()}={value}")
        elif _is_setting(word) and command.passes_on:
            flags.append(f"--{word}={value}")
        elif name == "submit" and any(taken_by(target, word) for target in _targets(words.get("JOB") or "pretrain")):
            passed.append(f"{word}={value}")
        elif not any(taken_by(target, word) for target in targets if target != name):
            raise DataError(f"{word}={value[:40]} is not known to `make {name}`.{_near(word, command)}")
    if passed:
        flags.append(f"--extra={json.dumps(passed)}")
    return [*flags, *shlex.split(words.get("ARGS", ""))]


def _is_setting(word: str) -> bool:
    """Whether a name is one of the configuration's, not of the command's own options."""
    return "." in word or word == "seed_everything"


def _targets(job: str) -> tuple[str, ...]:
    """The commands of a job for SLURM."""
    return STUDY_COMMANDS if job == STUDY else (job,)


def taken_by(target: str, word: str) -> bool:
    """Whether a command takes an option of this NAME."""
    if target not in COMMANDS and target not in SHORT:
        return False
    command = definition(target)
    return (word == word.upper() and command.option(word.lower()) is not None) or (
        _is_setting(word) and command.passes_on
    )


def _near(word: str, command: Command) -> str:
    names = [option.name.upper() for option in command.options if option.name != "extra"]
    hint = did_you_mean(word.upper(), names)
    return hint or f" It takes {', '.join(names)}; `make help FOR={command.name}` explains them."


def command_options(name: str, args: Sequence[str]) -> dict[str, str]:
    """The options of a command line by name, as text, with settings of the configuration under `extra`.

    Args:
        name: The command.
        args: What follows its name: `--name=value`, `--name value`, `NAME=value`, or `--a.b=value` for a setting.

    Raises:
        DataError: naming what is not an option, or has no value.
    """
    command = definition(name)
    given: dict[str, str] = dict(SHORT[name][1]) if name in SHORT else {}
    listed: list[str] = []
    settings: list[str] = []
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if NAMED.match(word):
            named = [word]  # together, since a job for SLURM is named by one and takes the others
            while rest and NAMED.match(rest[0]):
                named.append(rest.pop(0))
            rest = [*from_words(name, dict(entry.split("=", 1) for entry in named)), *rest]
            continue
        if not word.startswith("--"):
            raise DataError(
                f"{word[:80]!r} follows {name}, which takes NAME=value or --name=value alone; see {name} --help."
            )
        flag, equals, value = word[2:].partition("=")
        option = command.option(flag.replace("-", "_"))
        if option is None and command.passes_on and (_is_setting(flag) or flag == "config"):
            settings.append(word if equals else f"{word}={_next(rest, word)}")
            continue
        if option is None:
            names = [known.name for known in command.options]
            hint = did_you_mean(flag.replace("-", "_"), names, sign="--") or f" See {name} --help."
            raise DataError(f"--{flag[:80]} is no option of {name}.{hint}")
        if not equals:
            bare = option.type == "bool" and (not rest or rest[0].startswith("--"))
            value = "true" if bare else _next(rest, word)
        if option.name == "extra":
            listed = _texts(value)
            continue
        given[option.name] = value  # the last one holds, as everywhere on a command line
    if listed or settings:
        given["extra"] = json.dumps([*listed, *settings])
    return given


def values_of(args: Sequence[str]) -> dict[str, str]:
    """The options of a command line in the parser's form, by name.

    Args:
        args: The command and `--name=value`, as `check` gives them.
    """
    return dict(word[2:].partition("=")[::2] for word in args[1:])


def check_cohort(args: Sequence[str]) -> None:
    """Refuse a cohort whose folder is not there, before anything is imported to look into it.

    Args:
        args: A command line in the parser's form.

    Raises:
        DataError: naming the folder. The cohort that is drawn where it is missing, and `doctor`, may ask for none.
    """
    option, given = definition(args[0]).option("data"), values_of(args).get("data")
    if option is None or option.type != "Path" or args[0] == "doctor" or given is None:
        return
    if Path(given) != Path(option.shown_default) and not os.path.lexists(given):
        raise DataError(
            f"DATA={Path(given).name}: no such folder; expected a cohort, as `make cohort` and `make import` make it. "
            "Name its folder."
        )


def _next(rest: list[str], word: str) -> str:
    if not rest or rest[0].startswith("--"):
        raise DataError(f"{word} needs a value: {word}=VALUE.")
    return rest.pop(0)


def _texts(value: str) -> list[str]:
    try:
        content = json.loads(value)
    except ValueError:
        content = None
    return [str(entry) for entry in content] if isinstance(content, list) else shlex.split(value)


def check_options(name: str, given: Mapping[str, str]) -> list[str]:
    """The options in the parser's form, after a check of each by its type and its names.

    Args:
        name: The command.
        given: Its options by name, as text.

    Returns:
        `--name=value` in order.

    Raises:
        DataError: naming the option, what was found and the right form.
    """
    command = definition(name)
    missing = [
        f"{option.name.upper()}=" for option in command.options if option.default is None and option.name not in given
    ]
    if missing:
        raise DataError(f"{name} needs {', '.join(missing)}; `{name} --help` says what each is.")
    flags, unlabelled = [], _without_labels(command, given)
    for key, value in given.items():
        option = command.option(key)
        assert option is not None
        flags.append(f"--{key}={value if key == 'extra' else _checked(option, value, unlabelled)}")
    return flags


def _without_labels(command: Command, given: Mapping[str, str]) -> bool:
    """Whether an encoder is asked for that starts from prompts, which are enough; of several all are where none is."""
    every = ",".join(ENCODERS) if command.option("encoders") else ""
    named = re.findall(r"\w+", given.get("encoder", given.get("encoders", every)))
    return any(ENCODERS[name].prompts for name in named if name in ENCODERS)


def _checked(option: Option, value: str, unlabelled: bool) -> str:
    if option.listed and not value.lstrip().startswith("["):
        entries = [entry.strip() for entry in value.split(",") if entry.strip()]
        return f"[{', '.join(_checked_one(option, entry, unlabelled) for entry in entries)}]"
    if option.listed:
        return value
    return _checked_one(option, value, unlabelled)


def _checked_one(option: Option, value: str, unlabelled: bool) -> str:
    words = f"{option.name.upper()}={value[:80]}"
    kinds = set(re.findall(r"\w+", option.type))
    if value in ("None", "null") and "None" in kinds:
        return "null"
    if option.choices:
        return _choice(option, value, words)
    if "bool" in kinds:
        truth = {"true": "true", "1": "true", "yes": "true", "false": "false", "0": "false", "no": "false"}
        if value.lower() not in truth:
            raise DataError(f"{words}: expected true or false.")
        return truth[value.lower()]
    if "float" in kinds and "str" not in kinds:
        return _number(words, value, share=option.name in ("fraction", "fractions"), unlabelled=unlabelled)
    if "int" in kinds and not kinds & {"str", "dict"}:
        if not re.fullmatch(r"[+-]?\d+", value.strip()):
            raise DataError(f"{words}: expected a whole number.")
        if option.name in _COUNTS and int(value) < 1:
            raise DataError(f"{words}: expected at least 1.")
        return value.strip()
    if "Path" in kinds and "~" in value[:1]:
        return str(Path(value).expanduser())
    return value


def _choice(option: Option, value: str, words: str) -> str:
    base = value.partition(":")[0] if option.name == "stages" else value
    if base in option.choices or value == option.shown_default or (option.name == "task" and value == "all"):
        return value
    for other in (base.lower(), base.lower().replace("-", "_")):
        if other in option.choices:
            raise DataError(f"{words} is not known. Did you mean {option.name.upper()}={other}?")
    hint = did_you_mean(base.lower(), option.choices)
    raise DataError(f"{words} is not known; choose one of {', '.join(option.choices)}.{hint}")


def _number(words: str, value: str, *, share: bool, unlabelled: bool) -> str:
    """A number; of a share also that it is one, since 20 % is written in many ways."""
    name, text = words.partition("=")[0], value.strip()
    percent, point = re.fullmatch(r"(\d+(?:[.,]\d+)?)\s*%", text), re.fullmatch(r"\d+,\d+", text)
    if percent:
        right = f"{float(percent[1].replace(',', '.')) / 100:g}"
        raise DataError(f"{words}: expected a share of 1; write {name}={right}.")
    if point:
        raise DataError(f"{words}: expected a decimal point; write {name}={text.replace(',', '.')}.")
    try:
        number = float(text)
    except ValueError:
        raise DataError(f"{words}: expected a number.") from None
    if share and not (0 < number <= 1 or (unlabelled and number == 0)):
        hint = f"; for {number:g} % write {name}={number / 100:g}" if 1 < number <= 100 else ""
        raise DataError(f"{words}: expected a share above 0 and at most 1{hint}.")
    return text
