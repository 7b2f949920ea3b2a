"""Writing a radiology report from the facts of a patient, in the words and habits of a centre."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
import yaml

from datamodules.anatomy.nephrometry.points import stated_mm
from datamodules.cohort.columns import SIDES
from datamodules.errors import DataError
from datamodules.phantoms.centers import Center, Habits, center_of
from datamodules.phantoms.facts import Patient, PhantomLesion
from datamodules.phantoms.stated_attributes import ATTRIBUTES, LESION_ATTRIBUTES, attributes
from datamodules.reports.lint import lint_report

_NEGATIVE = ("no", "none", "normal")
_KIDNEY_LEVEL = ("hydronephrosis", "stones", "atrophy")
_ELSEWHERE = ("adrenal", "lymph_nodes")
# A sentence that no reader can take without also taking these. Class III is given for thick or irregular walls or septa
# that enhance, class IV for nodules that enhance, in the version of 2019 (Silverman et al., Radiology 2019;292:475) and
# in the one before: who names the class states where the lesion enhances, but not how strongly. Classes I to IIF leave
# it open: in II wall and septa may enhance, and in IIF the versions differ.
_IMPLIED = {
    ("bosniak", "I"): ("composition",),
    ("bosniak", "II"): ("composition",),
    ("bosniak", "IIF"): ("composition",),
    ("bosniak", "III"): ("composition", "enhancement_pattern"),
    ("bosniak", "IV"): ("composition", "enhancement_pattern"),
    ("enhancement_degree", "none"): ("enhancement_pattern",),
    ("enhancement_pattern", "none"): ("enhancement_degree",),
}


@dataclass(frozen=True)
class PhantomReport:
    """A report and what it says.

    Args:
        text: The report.
        stated: By side, the attributes whose value it states.
        hedged: By side, those it states as uncertain.
        size_mm: By side, the largest diameter it gives, as rounded; None where it gives none.
    """

    text: str
    stated: Mapping[str, set[str]]
    hedged: Mapping[str, set[str]]
    size_mm: Mapping[str, float | None]


@cache
def load_bank(name: str) -> dict[str, Any]:
    """A phrase bank of this package, `development` or `heldout`."""
    path = Path(__file__).with_name("phrases") / f"{name}.yaml"
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def write_report(patient: Patient, rng: np.random.Generator) -> PhantomReport:
    """The report of a patient's study.

    Raises:
        DataError: if the phrases would give away histology, grade, stage or outcome.
    """
    writer = _Writer(patient, center_of(patient.patient_id), rng)
    text = writer.text()
    refused = lint_report(text)
    if refused:
        raise DataError(
            f"The report of patient {patient.patient_id} holds {', '.join(refused)}; expected imaging findings only. "
            "Correct the phrase bank."
        )
    return PhantomReport(text, writer.stated, writer.hedged, writer.sizes)


def placeholders(template: str) -> set[str]:
    """Names that a template asks for, without the ending `_capital`."""
    return {name.removesuffix("_capital") for _, name, _, _ in Formatter().parse(template) if name}


@dataclass
class _Writer:
    patient: Patient
    center: Center
    rng: np.random.Generator
    stated: dict[str, set[str]] = field(default_factory=lambda: {side: set() for side in SIDES})
    hedged: dict[str, set[str]] = field(default_factory=lambda: {side: set() for side in SIDES})
    sizes: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(SIDES))

    def __post_init__(self) -> None:
        self.bank = load_bank(self.center.bank)
        self.facts = {side: attributes(self.patient, side) for side in SIDES}
        phases = {series.phase for series in self.patient.series}
        for values in self.facts.values():
            # What no phase shows cannot be reported.
            if "non_contrast" not in phases:
                values["density"] = None
            if "arterial" not in phases or len(phases - {"non_contrast"}) < 2:
                values["washout"] = None
        self.dropped = {side: self._dropped(side) for side in SIDES}

    @property
    def habits(self) -> Habits:
        return self.center.habits

    def text(self) -> str:
        """The whole report."""
        order = list(SIDES) if self.rng.random() < 0.4 else list(SIDES)[::-1]
        kidneys = {side: self._kidney(side) for side in order}
        other = self._other()
        blocks = [("technique", [self._technique()]), ("comparison", [self._comparison()])]
        blocks = [block for block in blocks if self.rng.random() > 0.15]
        if self.rng.random() < 0.3:
            blocks.reverse()
        findings = self._layout(kidneys, other)
        impression = self._impression(order) if self.rng.random() < self.habits.impression else []
        parts = [f"{self._heading(name)}: {' '.join(lines)}" for name, lines in blocks] + [findings]
        if impression:
            text = f"{self._heading('impression')}: {' '.join(impression)}"
            # Some put the conclusion first.
            parts.insert(0 if self.rng.random() < 0.1 else len(parts), text)
        return "\n".join(parts)

    def _layout(self, kidneys: Mapping[str, list[str]], other: list[str]) -> str:
        heading = self._heading("findings")
        if self.habits.layout == "prose":
            return f"{heading}: " + " ".join(line for lines in (*kidneys.values(), other) for line in lines)
        if self.habits.layout == "list":
            items = [item for lines in kidneys.values() for item in self._grouped(lines)] + other
            return f"{heading}:\n" + "\n".join(f"{number}. {item}" for number, item in enumerate(items, start=1))
        sections = [f"{self._heading(side)}: {' '.join(lines)}" for side, lines in kidneys.items() if lines]
        rest = f"{self._heading('other')}: {' '.join(other)}"
        sections = [rest, *sections] if self.rng.random() < 0.2 else [*sections, rest]
        return f"{heading}:\n" + "\n".join(sections)

    def _grouped(self, lines: list[str]) -> list[str]:
        items, start = [], 0
        while start < len(lines):
            count = int(self.rng.integers(1, 4))
            items.append(" ".join(lines[start : start + count]))
            start += count
        return items

    def _kidney(self, side: str) -> list[str]:
        lesions = self.patient.anatomy.kidneys[side].lesions
        if not lesions:
            return self._without_lesion(side)
        lines = [self._opening(side)]
        rest = [name for name in LESION_ATTRIBUTES if name not in self.stated[side] and name != "lesion_number"]
        # Place and form first, as dictated; content and surroundings in an order of the day.
        head, tail = rest[:8], rest[8:]
        self.rng.shuffle(tail)
        lines += [line for name in (*head, *tail) if (line := self._sentence(side, name))]
        if line := self._sentence(side, "lesion_number"):
            lines.append(line)
        if "lesion_number" in self.stated[side]:
            lines += [self._fill(self._pick(self.bank["further"]), side, other) for other in lesions[1:3]]
        return lines + self._kidney_level(side)

    def _without_lesion(self, side: str) -> list[str]:
        if self.rng.random() < 0.04:
            return []
        quiet = all(self.facts[side][name] in _NEGATIVE for name in _KIDNEY_LEVEL)
        if quiet:
            template = self.bank["normal"][int(self.rng.integers(len(self.bank["normal"])))]
            self.stated[side].update(template["states"])
            return [self._fill(template["text"], side), *self._kidney_level(side)]
        self.stated[side].add("lesion_present")
        template = self._pick(self.bank["sentences"]["lesion_present"]["no"])
        return [self._fill(template, side), *self._kidney_level(side)]

    def _kidney_level(self, side: str) -> list[str]:
        return [
            line
            for name in _KIDNEY_LEVEL
            if name not in self.stated[side] and (line := self._sentence(side, name, rarer=0.6))
        ]

    def _other(self) -> list[str]:
        lines: list[str] = []
        for name in (*_ELSEWHERE, "hydronephrosis", "stones"):
            values = {self.facts[side][name] for side in SIDES}
            silent = all(name not in self.stated[side] for side in SIDES)
            if len(values) == 1 and values <= set(_NEGATIVE) and silent:
                if self.rng.random() < self.habits.negatives * (1.0 if name in _ELSEWHERE else 0.3):
                    lines.append(self._pick(self.bank["both"][name]))
                    for side in SIDES:
                        self.stated[side].add(name)
            elif name in _ELSEWHERE:
                lines += [line for side in SIDES if (line := self._sentence(side, name, rarer=0.3))]
        chatter = list(self.bank["chatter"])
        self.rng.shuffle(chatter)
        return lines + chatter[: int(self.rng.integers(1, 4))]

    def _dropped(self, side: str) -> set[str]:
        """Attributes that this report leaves out, decided once so that every part of it agrees."""
        return {
            name for name in ATTRIBUTES if self.facts[side][name] is None or self.rng.random() < self.habits.omission
        }

    def _sentence(self, side: str, name: str, rarer: float = 1.0) -> str | None:
        """A sentence that states an attribute, or None where the report leaves it out."""
        value = self.facts[side][name]
        absent = value in _NEGATIVE or value == "one"
        draw, uncertain = self.rng.random(), self.rng.random() < self.habits.hedging
        if value is None or name in self.dropped[side] or (absent and draw > self.habits.negatives * rarer):
            return None
        hedges = self.bank["uncertain"].get(name, {}).get(value, [])
        if uncertain and hedges:
            self.hedged[side].add(name)
        plain = self.bank["touching"] if self._touches(side, name) else self.bank["sentences"][name][value]
        template = self._pick(hedges if uncertain and hedges else plain)
        self.stated[side].update({name, *_IMPLIED.get((name, value), ())})
        return self._fill(template, side)

    def _touches(self, side: str, name: str) -> bool:
        """Whether a sentence on the nearness may say that the lesion touches the sinus, not only that it is near."""
        lesions = self.patient.anatomy.kidneys[side].lesions
        return name == "collecting_nearness" and lesions[0].measures.sinus_mm == 0.0

    def _opening(self, side: str) -> str:
        usable = [text for text in self.bank["openings"] if self._usable(text, side)]
        plain = [
            text for text in self.bank["openings"] if placeholders(text) <= {"side", "size", "composition", "pole"}
        ]
        # A report that leaves out everything still says what and where.
        template = self._pick(usable or plain)
        self._remember(template, side)
        self.stated[side].add("lesion_present")
        return self._fill(template, side, self.patient.anatomy.kidneys[side].lesions[0])

    def _usable(self, template: str, side: str) -> bool:
        return not placeholders(template) & self.dropped[side]

    def _remember(self, template: str, side: str) -> None:
        names = placeholders(template)
        self.stated[side].update(names & set(ATTRIBUTES))
        if "size" in names:
            self.stated[side].add("size_class")

    def _impression(self, order: list[str]) -> list[str]:
        lines = []
        for side in sorted(order, key=lambda side: side != self.patient.index_side):
            lesions = self.patient.anatomy.kidneys[side].lesions
            if lesions and (side == self.patient.index_side or self.rng.random() < 0.4):
                usable = [text for text in self.bank["impression"]["lesion"] if self._usable(text, side)]
                template = self._pick(usable or self.bank["impression"]["lesion"][:1])
                self._remember(template, side)
                lines.append(self._fill(template, side, lesions[0]))
        alone = sum(bool(self.patient.anatomy.kidneys[side].lesions) for side in SIDES) == 1
        quiet = all(self.facts[side][name] in _NEGATIVE for side in SIDES for name in _KIDNEY_LEVEL)
        if alone and quiet and self.rng.random() < 0.3:
            lines.append(self._pick(self.bank["impression"]["clear"]))
            empty = next(side for side in SIDES if not self.patient.anatomy.kidneys[side].lesions)
            self.stated[empty].add("lesion_present")
        return lines

    def _technique(self) -> str:
        phases = [self._pick(self.bank["phases"][series.phase]) for series in self.patient.series]
        text = phases[0] if len(phases) == 1 else ", ".join(phases[:-1]) + " and " + phases[-1]
        return self._pick(self.bank["technique"]).format(phases=text)

    def _comparison(self) -> str:
        prior = self.rng.random() < self.habits.priors
        template = self._pick(self.bank["comparison"]["prior" if prior else "none"])
        diameter = self.patient.index_lesion.measures.diameter_mm * self.rng.uniform(0.55, 0.95)
        date = f"{int(self.rng.integers(1, 13)):02d}/{int(self.rng.integers(2009, 2021))}"
        return template.format(prior_date=date, prior_size=self._length(diameter) + f" {self.habits.unit}")

    def _fill(self, template: str, side: str, lesion: PhantomLesion | None = None) -> str:
        """A template with its words; those about a lesion other than the largest speak of that lesion."""
        lesions = self.patient.anatomy.kidneys[side].lesions
        values = dict(self.facts[side])
        if lesion is not None and lesion is not lesions[0]:
            values |= {"pole": lesion.measures.pole, "composition": lesion.look.composition}
        words = {"side": side}
        # Sorted, since the order of a set of texts differs from process to process, and each word takes a draw.
        for name in sorted(placeholders(template) - {"side", "size"}):
            words[name] = self._pick(self.bank["words"][name][values[name]])
        if "size" in placeholders(template) and lesion is not None:
            words["size"] = self._size(side, lesion)
        capitals = {f"{name}_capital": word[:1].upper() + word[1:] for name, word in words.items()}
        return sentence_case(template.format(**words, **capitals))

    def _size(self, side: str, lesion: PhantomLesion) -> str:
        first, second = lesion.measures.diameter_mm, lesion.measures.second_mm
        third = min(second, float(2 * lesion.shape.half_axes_mm.min()))
        template = self._pick(self.bank["sizes"][self.habits.dimensions])
        # No other diameter may be rounded above the largest.
        largest = stated_mm(first)
        if lesion is self.patient.anatomy.kidneys[side].lesions[0]:
            self.sizes[side] = float(largest)
        shown = [min(float(largest), length) for length in (largest, second, third)]
        lengths = dict(zip("abc", map(self._length, shown), strict=True))
        return template.format(unit=self.habits.unit, **lengths)

    def _length(self, millimetres: float) -> str:
        return f"{millimetres / 10:.1f}" if self.habits.unit == "cm" else f"{millimetres:.0f}"

    def _heading(self, name: str) -> str:
        return self._pick(self.bank["headings"][name])

    def _pick(self, options: list[str]) -> str:
        return options[int(self.rng.integers(len(options)))]


def sentence_case(text: str) -> str:
    """A sentence with its first letter large, and 'an' before a vowel."""
    text = re.sub(r"\b([Aa]) (?=[aeio]|ill|un(?!i)|8)", r"\1n ", text)
    return text[:1].upper() + text[1:]
