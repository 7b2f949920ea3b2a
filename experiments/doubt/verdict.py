"""What the gate says of one kidney: whether a model may speak of it, and why not, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

OUTSIDE_TRAINING = "--outside_training"
"""Option of a command line by which a user asks for what a model says of a scan outside of its training."""


@dataclass(frozen=True)
class GateFinding:
    """One thing that the gate looked at.

    Args:
        check: `reference`, `kind of scan`, `edge`, `phase`, `slices`, `dense bodies`, `intensities`, `noise` or
            `features`.
        outside: Whether it is outside of the training data.
        sentence: What was found, in words.
        unlikeness: Of a measured check: 0 is the median of the validation kidneys, and above 1 is outside; None for a
            check that is a rule.
    """

    check: str
    outside: bool
    sentence: str
    unlikeness: float | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether one kidney is within what the model knows.

    Args:
        side: left or right.
        findings: What was looked at.
    """

    side: str
    findings: tuple[GateFinding, ...]

    @property
    def outside(self) -> bool:
        """Whether anything is outside of the training data; a model is then not to be relied on."""
        return any(finding.outside for finding in self.findings)

    @property
    def reasons(self) -> tuple[str, ...]:
        """The sentences of what is outside."""
        return tuple(finding.sentence for finding in self.findings if finding.outside)

    @property
    def headline(self) -> str:
        """The verdict in words."""
        if self.outside:
            return f"{self.side.capitalize()} kidney OUTSIDE the training data. {' '.join(self.reasons)}"
        return f"{self.side.capitalize()} kidney: nothing found that is outside the training data."

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for a JSON file."""
        return {
            "outside_training": self.outside,
            "headline": self.headline,
            "findings": [
                {"check": one.check, "outside": one.outside, "sentence": one.sentence}
                | ({} if one.unlikeness is None else {"unlikeness": round(one.unlikeness, 3)})
                for one in self.findings
            ],
        }


def headline(verdicts: Sequence[Verdict]) -> str:
    """The verdicts on the kidneys of a scan in one line; what is outside for all of them is said once."""
    outside = [verdict for verdict in verdicts if verdict.outside]
    if not outside:
        return "Nothing found that is outside the training data."
    shared = [text for text in outside[0].reasons if all(text in other.reasons for other in outside[1:])]
    sides = " and ".join(verdict.side for verdict in outside)
    own = [
        f"{verdict.side.capitalize()}: {text}" for verdict in outside for text in verdict.reasons if text not in shared
    ]
    kidneys = "kidneys" if len(outside) > 1 else "kidney"
    said = " ".join([*shared, *(own if len(outside) > 1 else [text.partition(": ")[2] for text in own])])
    return f"OUTSIDE THE TRAINING DATA ({sides} {kidneys}). {said}"


def speaks(verdict: Verdict, outside_training: bool) -> bool:
    """Whether classes of a kidney may be shown: it is within the training data, or the user asked for them all the
    same."""
    return outside_training or not verdict.outside


def silenced(verdict: Verdict) -> str:
    """What stands in the place of classes that are not shown."""
    return f"No class is shown: the {verdict.side} kidney is outside the training data ({OUTSIDE_TRAINING} shows them)."
