"""What pathology and follow-up say of a patient, in the words of the tables.

Every importer reads its own source and asks here for the label, so that two cohorts mean the same by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from datamodules.cohort.tables import TABLES
from datamodules.errors import DataError

DAYS_PER_MONTH = 30.4375
"""365.25 / 12, the mean length of a month."""

_ABSENT = frozenset({"", "na", "n/a", "nan", "none", "null", "unknown", "not assessed", "not available"})


def months(days: float) -> float:
    """Days as months of 30.4375 days; day 0 is kept as 0.

    Raises:
        DataError: if the time is negative or not a number.
    """
    if not 0.0 <= days < float("inf"):
        raise DataError(f"A time of {days:g} days was found; expected days since the origin, 0 or more.")
    return days / DAYS_PER_MONTH


def parse_stage(text: object, letter: Literal["t", "n", "m"]) -> str | None:
    """A stage of the TNM classification as the tables spell it.

    Prefixes (c, p, y, the letter itself) and case are no matter: `pT3a`, `T3a` and `3a` are all '3a'.

    Args:
        text: What the source says; None, an empty text and 'na' are missing.
        letter: Which of T, N and M it is.

    Returns:
        A value of the column `stage_pt`, `stage_pn` or `stage_pm` of the table `patients`, or None where the source
        states nothing. 'X', which says that it could not be assessed, is not the same as nothing and is kept.

    Raises:
        DataError: if the text is not a stage.
    """
    if text is None or str(text).strip().lower() in _ABSENT:
        return None
    found = str(text).strip().lower()
    stage = found.lstrip("cpyr").removeprefix(letter)
    stage = "X" if stage == "x" else stage
    choices = TABLES["patients"].column(f"stage_p{letter}").choices or ()
    if stage not in choices:
        raise DataError(
            f"{letter.upper()} stage {str(text)!r} was found; expected one of {', '.join(choices)} "
            "with or without a prefix such as 'pT', or nothing."
        )
    return stage


def parse_grade(text: object) -> int | None:
    """A WHO/ISUP grade of 1 to 4, or None where the source states none.

    Raises:
        DataError: if the text is not a grade.
    """
    if text is None or str(text).strip().lower() in _ABSENT:
        return None
    grade = str(text).strip().lower().removeprefix("g")
    if grade not in {"1", "2", "3", "4"}:
        raise DataError(f"ISUP grade {str(text)!r} was found; expected 1, 2, 3 or 4, or nothing.")
    return int(grade)


@dataclass(frozen=True)
class Pathology:
    """What pathology found in one patient; None is not assessed.

    Args:
        malignant: Whether the tumour is malignant.
        isup_grade: WHO/ISUP grade, 1 to 4.
        stage_pt: T stage as in the tables.
        stage_pn: N stage; 'X' is not assessed.
        stage_pm: M stage; 'X' is not assessed.
        necrosis: Tumour necrosis.
        sarcomatoid: Sarcomatoid differentiation.
        rhabdoid: Rhabdoid differentiation.
    """

    malignant: bool | None = None
    isup_grade: int | None = None
    stage_pt: str | None = None
    stage_pn: str | None = None
    stage_pm: str | None = None
    necrosis: bool | None = None
    sarcomatoid: bool | None = None
    rhabdoid: bool | None = None

    def criteria(self) -> dict[str, bool | None]:
        """Each sign of aggressiveness: present, absent, or None where it was not assessed."""
        return {
            "isup_3_4": None if self.isup_grade is None else self.isup_grade >= 3,
            "pt3_or_more": None if self.stage_pt in (None, "X") else str(self.stage_pt)[0] in "34",
            "n1": None if self.stage_pn in (None, "X") else self.stage_pn != "0",
            "m1": None if self.stage_pm in (None, "X") else self.stage_pm == "1",
            "necrosis": self.necrosis,
            "sarcomatoid": self.sarcomatoid,
            "rhabdoid": self.rhabdoid,
        }


def aggressiveness(pathology: Pathology) -> int | None:
    """Aggressive (1) or indolent (0) in the sense of Tao et al., Nature Communications 2026.

    A malignant tumour is aggressive when any of these was found: ISUP grade 3 or 4, pT3 or more, N1, M1, necrosis,
    sarcomatoid or rhabdoid differentiation. Benign tumours and malignant ones without any are 0. What was not assessed
    counts as not present where anything was.

    Returns:
        1, 0, or None where it is not known whether the tumour is malignant, or nothing of a malignant one was assessed.
    """
    criteria = pathology.criteria().values()
    if pathology.malignant is None or (pathology.malignant and all(found is None for found in criteria)):
        return None
    return int(pathology.malignant and any(criteria))
