"""Pages of help, from the signatures and docstrings of the commands."""

from __future__ import annotations

import textwrap

from experiments.front_door.commands import GROUPS, SHORT, Option, definition

_WIDTH = 110
_COLUMN = 20


def overview() -> str:
    """Every command with its purpose."""
    lines = ["make COMMAND NAME=value ...   or   renal-vlm COMMAND --name=value ...", ""]
    for group, commands in GROUPS.items():
        lines += [group, *(_entry(name, definition(name).purpose) for name in commands)]
        short = ((name, *base) for name, base in SHORT.items() if base[0] in commands)
        lines += [*(_entry(name, f"{base} with {_given(options)}") for name, base, options in short), ""]
    lines += [
        "make help FOR=COMMAND lists the options of one. Targets of make's own: test, test-all, chaos, lint, docs,",
        "setup, release, clean.",
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
    lines = [f"make {name} NAME=value ...   or   renal-vlm {name} --name=value ...", ""]
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


def document() -> str:
    """Every command with its options as one page of Markdown, which `docs/COMMANDS.md` holds."""
    lines = [
        "# Commands",
        "",
        "By make, options are NAME=value: `make finetune TASK=rfs FRACTION=0.2`. Without make the command is",
        "`renal-vlm`, which takes the same, and --name=value: `renal-vlm finetune --task=rfs --fraction=0.2`. Settings",
        "of the configuration are written with their dots, where a command takes them:",
        "`make finetune TASK=rfs optimizer.lr=1e-4`.",
        "",
        "This page is written by `python -m experiments help --markdown`.",
        "",
    ]
    for group, name in ((group, name) for group, commands in GROUPS.items() for name in commands):
        command = definition(name)
        lines += [f"## {group}", ""] if name == next(iter(GROUPS[group])) else []
        lines += [f"### {name}", "", *(" ".join(part.split()) + "\n" for part in command.text.split("\n\n"))]
        rows = [option for option in command.options if option.name != "extra"]
        if rows:
            lines += ["| option | meaning | default |", "|---|---|---|"]
            for option in rows:
                default = "must be given" if option.default is None else f"`{option.shown_default}`"
                shown = default if option.default is None or option.shown_default else ""
                lines.append(f"| `{option.name.upper()}` | {_explained(option, default=False)} | {shown} |")
        if command.passes_on:
            lines.append("| `a.b` | A setting of the configuration, as `optimizer.lr=1e-4`. | |")
        lines.append("")
    lines += ["## Short names", ""]
    lines += [f"- `{name}`: `{base}` with `{_given(options)}`" for name, (base, options) in SHORT.items()]
    return "\n".join(lines)


def _explained(option: Option, *, default: bool = True) -> str:
    parts = [option.meaning]
    if option.choices:
        words = ", ".join(option.choices)
        parts.append(f"Of {words}." if option.listed else f"One of {words}.")
    if option.listed:
        parts.append("Separated by commas.")
    if default and option.default is None:
        parts.append("Must be given.")
    elif default and option.shown_default:
        parts.append(f"[{option.shown_default}]")
    return " ".join(part for part in parts if part)


def _entry(name: str, text: str) -> str:
    first = f"  {name}".ljust(_COLUMN) + ("" if len(name) + 2 < _COLUMN else " ")
    return textwrap.fill(text, _WIDTH, initial_indent=first, subsequent_indent=" " * _COLUMN)


def _given(options: dict[str, str]) -> str:
    return " ".join(f"{name.upper()}={value}" for name, value in options.items())
