"""Negation, doubt and the past, mention by mention."""

from __future__ import annotations

import pytest

from datamodules.reports.reader.context import Context, context


def _context(text: str, denies: bool = False) -> Context:
    """The context of the word in brackets."""
    start, end = text.index("["), text.index("]") - 1
    return context(text.replace("[", "").replace("]", ""), start, end, denies)


NEGATED = [
    "No [mass] is seen.",
    "There is no evidence of [necrosis].",
    "Without [calcification].",
    "Absence of [fat].",
    "Free of [thrombus].",
    "Neither fat nor [calcification].",
    "Neither [fat] nor calcification.",
    "Neither kidney shows [hydronephrosis].",
    "[Fat] is not seen.",
    "[Calcifications] were not detected.",
    "[Thrombus] is absent.",
    "[Invasion] has been ruled out.",
    "No calcification, necrosis or [fat].",
    "No solid, cystic mass or [stone] was detected.",
    "It does not [enhance].",
    "It fails to [enhance].",
    "It lacks [fat].",
    "Negative for [thrombus].",
    "[Fat] cannot be demonstrated.",
    "[Scar]: none.",
    "Nothing suggests a [mass].",
    "It does not contain [fat].",
    "Without necrotic change or [bleeding].",
    "No area with negative [attenuation].",
    "[Calcification] does not occur.",
    "Additional [lesions] in this kidney: none.",
]
AFFIRMED = [
    "A [mass] is seen.",
    "No change in the [mass].",
    "Not only stranding but [invasion].",
    "Without fat but with [calcification].",
    "No fat, there is [necrosis].",
    "No hydronephrosis, which is why the [stone] is small.",
    "[Invasion] cannot be excluded.",
    "The [mass] is not further characterised.",
    "No increase in size of the [cyst].",
    "The kidney without stones shows a [mass].",
    "The [mass] is unchanged.",
    "No stones apart from a [calculus].",
]


@pytest.mark.parametrize("text", NEGATED)
def test_negated(text: str) -> None:
    assert _context(text).negated


@pytest.mark.parametrize("text", AFFIRMED)
def test_not_negated(text: str) -> None:
    assert not _context(text).negated


@pytest.mark.parametrize(
    ("text", "negated"),
    [
        ("Possible [necrosis].", False),
        ("[Necrosis] is suspected.", False),
        ("There may be [necrosis].", False),
        ("[Invasion] cannot be excluded.", False),
        ("No definite [fat].", True),
        ("[Fat] is not definitely seen.", True),
        ("A [thrombus] is unlikely.", True),
        ("Suspicious for [invasion].", False),
        ("A lesion ([cyst]?).", False),
        ("It appears slightly [heterogeneous].", False),
    ],
)
def test_hedged(text: str, negated: bool) -> None:
    found = _context(text)
    assert found.uncertain
    assert found.negated == negated


@pytest.mark.parametrize("text", ["A [mass] is seen.", "Definite [fat].", "No [fat]."])
def test_not_hedged(text: str) -> None:
    assert not _context(text).uncertain


def test_a_negation_inside_a_mention_counts_unless_it_belongs_to_it() -> None:
    assert _context("[collecting system is not invaded]").negated
    assert not _context("[does not enhance]", denies=True).negated


@pytest.mark.parametrize("text", ["In the previous CT there was a [mass].", "The [mass] was resected."])
def test_the_past(text: str) -> None:
    assert _context(text).past


@pytest.mark.parametrize("text", ["The [kidney] could not be evaluated.", "[Hydronephrosis] cannot be assessed."])
def test_unassessed(text: str) -> None:
    assert _context(text).unassessed
