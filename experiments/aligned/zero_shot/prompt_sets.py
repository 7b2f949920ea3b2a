"""Prompt sets: what a class looks like on CT, in the words of a radiologist, as data with a linter."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.errors import DataError
from datamodules.plain_yaml import read_yaml
from datamodules.reports.reader.rules import RuleExtractor
from datamodules.reports.reader.statements import Statement
from datamodules.reports.schema import load_schema

PROMPTS = Path(__file__).parent / "prompts"
TEMPLATES = "templates.yaml"
TEMPLATES_AT_LEAST, DESCRIPTIONS_AT_LEAST, WORDS_AT_MOST = 20, 5, 40
_SLOT = "{}"


@dataclass(frozen=True)
class PromptClass:
    """The prompts of one class.

    Args:
        value: Value of the label, as in the task's `classes`.
        names: Words for the class, matched at the beginning of words; no prompt of another class may hold one.
        states: Attributes of the schema with the value that every description must state, where the class is one
            that reports state; no prompt of another class may state it.
        descriptions: Noun phrases with their article.
    """

    value: int | str
    names: tuple[str, ...] = ()
    states: Mapping[str, str] = field(default_factory=dict)
    descriptions: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptSet:
    """Templates and descriptions of one task.

    Args:
        task: Downstream task.
        templates: Sentences with `{}` where a description goes.
        classes: One entry per class, in the order of the file.
    """

    task: str
    templates: tuple[str, ...]
    classes: tuple[PromptClass, ...]

    def ordered(self, values: Sequence[int | str]) -> PromptSet:
        """The set with its classes in the order of a label's class indices.

        Raises:
            DataError: if the label has other classes.
        """
        found = {entry.value: entry for entry in self.classes}
        if sorted(map(str, found)) != sorted(map(str, values)):
            raise DataError(
                f"The prompts of task {self.task} describe the classes {list(found)}; the task has {list(values)}. "
                f"Edit experiments/aligned/zero_shot/prompts/{self.task}.yaml."
            )
        return PromptSet(self.task, self.templates, tuple(found[value] for value in values))

    def of_class(self, entry: PromptClass) -> list[str]:
        """All prompts of a class: every description in every template."""
        return [fill(template, description) for description in entry.descriptions for template in self.templates]

    def prompts(self) -> tuple[list[str], np.ndarray]:
        """All prompts, and the class index of each, int64 [M]."""
        groups = [self.of_class(entry) for entry in self.classes]
        code = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
        return [text for group in groups for text in group], code


def fill(template: str, description: str) -> str:
    """A description in a template, with a capital letter at the beginning of the sentence."""
    text = template.replace(_SLOT, description)
    return text[0].upper() + text[1:]


def available(folder: Path = PROMPTS) -> list[str]:
    """Tasks that have prompts."""
    return sorted(path.stem for path in folder.glob("*.yaml") if path.name != TEMPLATES)


def load_prompts(task: str, folder: Path = PROMPTS) -> PromptSet:
    """Read the prompts of a task.

    Args:
        task: Downstream task.
        folder: Folder with one file per task and `templates.yaml`, which a file's own `templates` replace.

    Raises:
        DataError: if there is none, it is no valid file, or the linter finds something.
    """
    if task not in available(folder):
        raise DataError(f"Task {task} has no prompts; there are prompts for {', '.join(available(folder)) or 'none'}.")
    content = _read(folder / f"{task}.yaml")
    templates = content["templates"] if "templates" in content else _read(folder / TEMPLATES)
    try:
        entries = [dict(entry) for entry in content["classes"]]
        classes = tuple(
            PromptClass(
                **{
                    **entry,
                    "names": tuple(entry.get("names", ())),
                    "descriptions": tuple(entry.get("descriptions", ())),
                }
            )
            for entry in entries
        )
        found = PromptSet(str(content["task"]), tuple(templates), classes)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"Prompts {task}.yaml: {error}; expected `task` and `classes` with value, names or states, descriptions."
        ) from error
    findings = lint(found)
    if found.task != task:
        findings.insert(0, f"the file says task {found.task}")
    if findings:
        raise DataError(f"Prompts {task}.yaml: {'; '.join(findings[:3])}; correct the file.")
    return found


def _read(path: Path) -> Any:
    return read_yaml(path, f"Prompts {path.name}")


def lint(prompts: PromptSet) -> list[str]:
    """What is wrong with a prompt set, in sentences; empty for a good one.

    Every class is described often enough and named (by a name, or by an attribute that all its descriptions state),
    no prompt names or states another class, none is too long, and none stands twice.
    """
    findings = _lint_templates(prompts.templates)
    if len(prompts.classes) < 2:
        findings.append(f"{len(prompts.classes)} classes; expected at least two")
    for entry in prompts.classes:
        where = f"class {entry.value}"
        texts = [*entry.descriptions, *entry.names, *entry.states, *entry.states.values()]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            findings.append(f"{where}: an entry is not a text")
            continue
        if len(entry.descriptions) < DESCRIPTIONS_AT_LEAST:
            findings.append(
                f"{where}: {len(entry.descriptions)} descriptions; expected at least {DESCRIPTIONS_AT_LEAST}"
            )
        findings += [f"{where}: {finding}" for finding in _lint_named(entry)]
    if not findings:
        findings += _lint_leaks(prompts) + _lint_texts(prompts)
    return findings


def _lint_templates(templates: Sequence[str]) -> list[str]:
    if not all(isinstance(template, str) for template in templates):
        return ["a template is not a text"]
    findings = [f"template {text!r} needs one {_SLOT}" for text in templates if text.count(_SLOT) != 1]
    if len(templates) < TEMPLATES_AT_LEAST:
        findings.append(f"{len(templates)} templates; expected at least {TEMPLATES_AT_LEAST}")
    return findings


def _lint_named(entry: PromptClass) -> list[str]:
    if not entry.names and not entry.states:
        return ["neither names nor states; expected one of them"]
    findings = []
    if entry.names and not any(_names(entry, text) for text in entry.descriptions):
        findings.append("no description names the class")
    schema = load_schema()
    for attribute, value in entry.states.items():
        if value not in schema.classes.get(attribute, ()):
            findings.append(f"{attribute} = {value} is not in the attribute schema")
            continue
        stated = _stated(entry.descriptions, attribute)
        findings += [
            f"{text!r} states {attribute} = {found or 'nothing'}, expected {value}"
            for text, found in zip(entry.descriptions, stated, strict=True)
            if found != value
        ]
    return findings


def _names(entry: PromptClass, text: str) -> bool:
    return any(re.search(rf"\b{re.escape(name)}", text, re.IGNORECASE) for name in entry.names)


def read_descriptions(texts: Sequence[str]) -> list[list[Statement]]:
    """What the rules read out of each text, put as a sentence on one kidney: the statements of that kidney."""
    reports = [f"Findings:\nLeft kidney: {text[0].upper()}{text[1:]}." for text in texts]
    return [[entry for entry in own if entry.side == "left"] for own in RuleExtractor().extract(reports)]


def _stated(texts: Sequence[str], attribute: str) -> list[str | None]:
    found = read_descriptions(texts)
    return [next((entry.value for entry in own if entry.attribute == attribute), None) for own in found]


def _lint_leaks(prompts: PromptSet) -> list[str]:
    findings = []
    for entry in prompts.classes:
        others = [other for other in prompts.classes if other.value != entry.value]
        findings += [
            f"class {entry.value}: {text!r} names class {other.value}"
            for text in prompts.of_class(entry)
            for other in others
            if _names(other, text)
        ]
    # A template must not speak of a class either: it would be said of all of them.
    named = [(text, entry) for text in prompts.templates for entry in prompts.classes if _names(entry, text)]
    return findings + [f"template {text!r} names class {entry.value}" for text, entry in named]


def _lint_texts(prompts: PromptSet) -> list[str]:
    texts, _ = prompts.prompts()
    counts = Counter(" ".join(text.lower().split()) for text in texts)
    findings = [f"{text!r} stands {count} times" for text, count in counts.items() if count > 1]
    return findings + [
        f"{text!r} has {len(text.split())} words; expected at most {WORDS_AT_MOST}"
        for text in texts
        if len(text.split()) > WORDS_AT_MOST
    ]


def check_lengths(texts: Sequence[str], tokens: np.ndarray, max_length: int) -> None:
    """Refuse prompts that the text encoder would cut off.

    Args:
        texts: Prompts.
        tokens: int [M], tokens of each as the encoder reads it, after its truncation.
        max_length: Most tokens of the encoder.

    Raises:
        DataError: naming the first prompt that reaches the limit.
    """
    long = [text for text, count in zip(texts, tokens, strict=True) if count >= max_length]
    if long:
        raise DataError(
            f"{len(long)} prompts reach the text encoder's {max_length} tokens and would be cut off, first "
            f"{long[0]!r}; shorten them."
        )
