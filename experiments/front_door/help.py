"""Pages of help, from the signatures and docstrings of the commands."""

from __future__ import annotations

import textwrap

from experiments.front_door.commands import COMMANDS, SHORT, Option, definition

_WIDTH = 110
_COLUMN = 20


def overview() -> str:
    """Every command with its purpose."""
    lines = [
        "make COMMAND NAME=value ...   or   python -m experiments COMMAND --name=value ...",
        "",
        *(_entry(name, definition(name).purpose) for name in COMMANDS),
        *(_entry(name, f"{base} with {_given(options)}") for name, (base, options) in SHORT.items()),
        "",
        "make help FOR=COMMAND lists the options of one. test, chaos, lint, setup and clean are targets of make alone.",
        "Options by make: NAME=value in capitals; a.b=value for a setting of the configuration, as optimizer.lr=1e-4;",
        'further flags as they are with ARGS="--name=value".',
    ]
    return "\n".join(lines)


def command_page(name: str) -> str:
    """What one command does, and its options with defaults and choices.

    Args:
        name: The command.
    """
    command = definition(name)
    lines = [f"make {name} NAME=value ...   or   python -m experiments {name} --name=value ...", ""]
    if name in SHORT:
        base, options = SHORT[name]
        lines += [f"The same as {base} with {_given(options)}.", ""]
    for paragraph in command.text.split("\n\n"):
        lines += [textwrap.fill(" ".join(paragraph.split()), _WIDTH), ""]
    for option in command.options:
        if option.name == "extra":
            continue
        lines.append(_entry(option.name.upper(), _explained(option)))
    if command.passes_on:
        lines.append(_entry("a.b", "Any setting of the configuration, as optimizer.lr=1e-4 (--optimizer.lr=1e-4)."))
    return "\n".join(lines)


def _explained(option: Option) -> str:
    parts = [option.meaning]
    if option.choices:
        parts.append(
            f"One of {', '.join(option.choices)}." if not option.listed else f"Of {', '.join(option.choices)}."
        )
    if option.listed:
        parts.append("Separated by commas.")
    if option.default is None:
        parts.append("Must be given.")
    elif option.shown_default:
        parts.append(f"[{option.shown_default}]")
    return " ".join(part for part in parts if part)


def _entry(name: str, text: str) -> str:
    first = f"  {name}".ljust(_COLUMN) + ("" if len(name) + 2 < _COLUMN else " ")
    return textwrap.fill(text, _WIDTH, initial_indent=first, subsequent_indent=" " * _COLUMN)


def _given(options: dict[str, str]) -> str:
    return " ".join(f"{name.upper()}={value}" for name, value in options.items())
