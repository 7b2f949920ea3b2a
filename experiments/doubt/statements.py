"""What a model says of a kidney, held against what was measured and against itself: contradictions are withheld."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datamodules.reports.schema import AttributeSchema, load_schema

PRESENT = "lesion_present"
FROM_SCORE = 0.5
"""Score of `lesion_present: yes` from which there is held to be a lesion, where no mask tells."""
_NOT_TOGETHER: tuple[tuple[tuple[str, str], tuple[tuple[str, str], ...]], ...] = (
    (("malignancy", "benign"), (("aggressiveness", "aggressive"),)),
    *(
        (harmless, (("venous_thrombus", "renal_vein"), ("venous_thrombus", "vena_cava"), ("perirenal", "invasion"),
                    ("sinus_invasion", "yes"), ("collecting_invasion", "yes")))
        for harmless in (("malignancy", "benign"), ("aggressiveness", "indolent"))
    ),
    (("malignancy", "benign"), tuple(("subtype", name) for name in ("clear_cell", "papillary", "chromophobe"))),
    (("malignancy", "malignant"), tuple(("subtype", name) for name in ("oncocytoma", "other_benign"))),
    (("aggressiveness", "indolent"), (("isup", "high_grade"),)),
    (("enhancement_degree", "none"), (("washout", "yes"),)),
)  # fmt: skip
"""Answers that exclude each other, beside those of which the schema says that one implies another: invasion and
thrombus are pT3, which is aggressive and malignant by definition, and so is ISUP 3-4; what takes up no contrast loses
none."""
_ONLY_WHERE = {
    "bosniak": ("composition", "cystic", "Bosniak's classes are of cystic lesions"),
    "isup": ("malignancy", "malignant", "malignant tumours alone are graded"),
}
"""Questions that are asked only where another has a certain answer (Silverman et al., Radiology 2019)."""


@dataclass(frozen=True)
class Said:
    """One statement of a model about a kidney.

    Args:
        question: Attribute of the schema, or task.
        answer: The answer that scores highest.
        score: Its score.
        states: The same in the terms of the attribute schema, for a task whose classes reports state; an attribute
            states itself, and what its definition implies.
        words: How a sentence names it; question and answer by default.
        of_lesion: Whether it is about a lesion, and means nothing where there is none; decided by the schema for an
            attribute.
    """

    question: str
    answer: str
    score: float
    states: Mapping[str, str] = field(default_factory=dict)
    words: str = ""
    of_lesion: bool = True

    @property
    def shown(self) -> str:
        """How a sentence names it."""
        return self.words or f"{self.question}: {self.answer}".replace("_", " ")


@dataclass(frozen=True)
class Withheld:
    """A statement that is not made.

    Args:
        question: As of `Said`.
        answer: As of `Said`.
        reason: A sentence that names the statement and why it is withheld.
    """

    question: str
    answer: str
    reason: str


@dataclass(frozen=True)
class Statements:
    """What may be said of a kidney.

    Args:
        lesion: Whether it has a lesion, by the mask or else by the score; None where neither tells.
        score: Score of `lesion_present: yes`; None where nothing gives one.
        kept: Statements that stand.
        withheld: Those that do not, with the reason.
    """

    lesion: bool | None
    score: float | None
    kept: tuple[Said, ...]
    withheld: tuple[Withheld, ...]


def check_statements(
    said: Sequence[Said], measures: Mapping[str, Any], lesion_score: float | None = None
) -> Statements:
    """Withhold what contradicts the measurements, or another statement, and what is about a lesion where none is.

    Of two statements that contradict each other both are withheld, since nothing tells which is wrong.

    Args:
        said: The statements about one kidney.
        measures: What a mask answers of it: columns of the table `kidneys`, absent where not known.
        lesion_score: Score of `lesion_present: yes`, where there is one.

    Returns:
        The statements that stand, and the others with their reasons.
    """
    schema = load_schema()
    known = {name: value for name, value in measures.items() if value is not None}
    drawn = known.get("has_lesion")
    by_score = None if lesion_score is None else lesion_score >= FROM_SCORE
    lesion = by_score if drawn is None else bool(drawn)
    measured = _measured(known, schema)
    answers = {one.question: one.answer for one in said}
    reasons: dict[int, str] = {}
    for number, one in enumerate(said):
        if lesion is False and _of_lesion(one, schema):
            shown = "" if lesion_score is None else f" (score of a lesion {lesion_score:.2f})"
            by = "the mask shows" if drawn is not None else "the model sees"
            reasons[number] = f"{one.shown} is withheld: {by} no lesion in this kidney{shown}."
            continue
        first, wanted, why = _ONLY_WHERE.get(one.question, ("", "", ""))
        if answers.get(first, wanted) != wanted:
            reasons[number] = f"{one.shown} is withheld: {why}, and {first} is {answers[first]}."
            continue
        against = _against(one, known, measured, schema)
        if against:
            reasons[number] = f"{one.shown} is withheld: {against}."
    standing = [number for number in range(len(said)) if number not in reasons]
    for place, number in enumerate(standing):
        for other in standing[place + 1 :]:
            if _exclude(said[number], said[other], schema):
                for mine, theirs in ((number, other), (other, number)):
                    reasons.setdefault(mine, f"{said[mine].shown} is withheld: it contradicts {said[theirs].shown}.")
    kept = tuple(one for number, one in enumerate(said) if number not in reasons)
    gone = tuple(Withheld(said[number].question, said[number].answer, text) for number, text in sorted(reasons.items()))
    return Statements(lesion, lesion_score, kept, gone)


def lesion_words(present: bool | None, score: float | None) -> str:
    """Whether a kidney has a lesion, in words, with the score of the model."""
    if present is None:
        return "Whether there is a lesion is not known; what is said of one holds only then."
    shown = "" if score is None else f", score {score:.2f}"
    return f"{'Lesion' if present else 'No lesion'}{shown}."


def sphere_ml(diameter_mm: float) -> float:
    """Volume of a sphere."""
    return math.pi / 6 * diameter_mm**3 / 1000


def _of_lesion(one: Said, schema: AttributeSchema) -> bool:
    return schema[one.question].level == "lesion" if one.question in schema.names else one.of_lesion


def _states(one: Said, schema: AttributeSchema) -> dict[str, str]:
    """What a statement says in the terms of the schema, with what that implies."""
    own = dict(one.states)
    if one.question in schema.names:
        own[one.question] = one.answer
    implied: dict[str, str] = {}
    for name, value in own.items():
        implied |= {
            entry: text for kind in schema[name].classes if kind.name == value for entry, text in kind.implies.items()
        }
    return implied | own


def _exclude(one: Said, other: Said, schema: AttributeSchema) -> bool:
    mine, theirs = _states(one, schema), _states(other, schema)
    if any(theirs[name] != value for name, value in mine.items() if name in theirs):
        return True
    answers = {(one.question, one.answer), (other.question, other.answer)}
    return any(first in answers and answers & set(others) for first, others in _NOT_TOGETHER)


def _measured(known: Mapping[str, Any], schema: AttributeSchema) -> dict[str, tuple[str, str]]:
    """Values of attributes that the mask tells, each with the measurement in words."""
    found: dict[str, tuple[str, str]] = {}
    if "has_lesion" in known:
        found[PRESENT] = (
            ("yes", "the mask shows a lesion") if known["has_lesion"] else ("no", "the mask shows no lesion")
        )
    diameter = known.get("renal_r_mm", known.get("lesion_diameter_mm"))
    numbers = (
        ("size_class", diameter, "the lesion measures {:.0f} mm in the mask"),
        (
            "exophytic",
            _percent(known.get("renal_e_fraction")),
            "{:.0f} % of the lesion lie outside the kidney in the mask",
        ),
        ("collecting_nearness", known.get("renal_n_mm"), "the lesion is {:.1f} mm from the sinus in the mask"),
    )
    for name, value, words in numbers:
        measure = schema[name].measure
        if value is not None and measure is not None:
            found[name] = (measure.class_of(float(value)), words.format(float(value)))
    if known.get("renal_a") is not None:
        found["face"] = (str(known["renal_a"]), f"the lesion lies {known['renal_a']} in the mask")
    if known.get("renal_pole") is not None:
        found["pole"] = (str(known["renal_pole"]), f"the lesion lies {known['renal_pole']} in the mask")
    if known.get("lesion_count"):
        several = int(known["lesion_count"]) > 1
        found["lesion_number"] = ("several" if several else "one", f"the mask shows {int(known['lesion_count'])}")
    return found


def _percent(share: Any) -> float | None:
    return None if share is None else 100 * float(share)


def _against(
    one: Said, known: Mapping[str, Any], measured: Mapping[str, tuple[str, str]], schema: AttributeSchema
) -> str:
    """What measurement a statement contradicts, in words; nothing where none."""
    stated = _states(one, schema)
    for name, value in stated.items():
        if name in measured and measured[name][0] != value:
            return measured[name][1]
    measure = schema["size_class"].measure
    volume = [float(known[name]) for name in ("kidney_volume_ml", "tumor_volume_ml", "cyst_volume_ml") if name in known]
    if "size_class" in stated and "size_class" not in measured and measure is not None and volume:
        lower = dict(zip(measure.classes, (0.0, *measure.bounds), strict=True))[stated["size_class"]]
        if sphere_ml(lower) > sum(volume):
            return (
                f"the kidney in the mask has {sum(volume):.0f} ml, and a sphere of {lower / 10:.0f} cm alone has "
                f"{sphere_ml(lower):.0f} ml"
            )
    return ""
