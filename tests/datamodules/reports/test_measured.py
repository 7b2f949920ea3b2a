"""What a generated report says of a lesion is what its R.E.N.A.L. points say."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.anatomy.nephrometry.points import (
    EXOPHYTIC,
    NEARNESS,
    SIZE_CLASS,
    a_suffix,
    e_points,
    l_points,
    n_points,
    pole_of,
    r_points,
    stated_mm,
)
from datamodules.reports.measured import kidney_sentences
from datamodules.reports.reader.rules import RuleExtractor
from datamodules.reports.schema import load_schema

READER = RuleExtractor()
R_VALUES = (5.0, 39.4, 39.96, 40.0, 40.001, 40.04, 40.4, 41.0, 69.4, 69.96, 69.999, 70.0, 70.04, 104.0)
E_VALUES = (0.0, 0.05, 0.051, 0.3, 0.499, 0.5, 0.501, 1.0)
N_VALUES = (0.0, 0.5, 3.9, 4.0, 4.001, 4.4, 5.5, 6.6, 6.999, 7.0, 7.4, 30.0)
A_VALUES = (0.0, 1 / 3, 0.34, 0.5, 0.66, 2 / 3, 1.0)
L_VALUES = ((0.0, 1.0), (0.0, 0.0), (0.02, 0.99), (0.3, 0.0), (0.5, 1.0), (0.51, 0.0), (0.3, 0.5), (1.0, 1.0))


def row(r: float, e: float, n: float, a: float, place: tuple[float, float], count: int = 1) -> dict[str, Any]:
    """A kidney as its row in the table, from measured values."""
    between, above = place
    location = l_points(between, 0.02 < above < 0.98)
    return {
        "side": "left",
        "has_lesion": True,
        "lesion_count": count,
        # The largest extent in space is another class than the axial diameter, and no report says it.
        "lesion_diameter_mm": 1.6 * r,
        "renal_r_mm": r,
        "renal_n_mm": n,
        "renal_r": r_points(r),
        "renal_e": e_points(e),
        "renal_n": n_points(n),
        "renal_a": a_suffix(a),
        "renal_l": location,
        "renal_pole": pole_of(location, above),
    }


def expected(kidney: dict[str, Any]) -> dict[str, str]:
    """The attributes that follow from the points."""
    return {
        "lesion_present": "yes",
        "lesion_number": "several" if kidney["lesion_count"] > 1 else "one",
        "size_class": SIZE_CLASS[kidney["renal_r"]],
        "exophytic": EXOPHYTIC[kidney["renal_e"]],
        "collecting_nearness": NEARNESS[kidney["renal_n"]],
        "face": kidney["renal_a"],
        "pole": kidney["renal_pole"],
    }


def read(kidneys: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The attributes that the rules read out of the reports of kidneys."""
    texts = [
        f"Findings:\n{entry['side'].capitalize()} kidney: {' '.join(kidney_sentences(entry))}" for entry in kidneys
    ]
    return [
        {entry.attribute: entry.value for entry in statements if entry.side == kidney["side"]}
        for statements, kidney in zip(READER.extract(texts), kidneys, strict=True)
    ]


def test_attributes_read_from_a_report_are_those_of_the_points() -> None:
    pairs = [row(r, 0.3, n, 0.5, (0.3, 1.0)) for r, n in product(R_VALUES, N_VALUES)]
    others = [row(30.0, e, 5.0, a, place, 2) for e, a, place in product(E_VALUES, A_VALUES, L_VALUES)]
    kidneys = pairs + others
    for kidney, found in zip(kidneys, read(kidneys), strict=True):
        assert found == expected(kidney), kidney_sentences(kidney)


@pytest.mark.parametrize(("distance", "touches"), [(0.0, True), (0.4, False), (3.9, False)])
def test_only_what_touches_abuts(distance: float, touches: bool) -> None:
    assert ("abuts" in " ".join(kidney_sentences(row(30.0, 0.3, distance, 0.5, (0.0, 1.0))))) == touches


def test_size_is_the_axial_diameter() -> None:
    kidney = row(38.2, 0.3, 9.0, 0.5, (0.0, 1.0))
    assert "measuring 3.8 cm" in kidney_sentences(kidney)[0]
    assert "cm" not in " ".join(kidney_sentences(kidney | {"renal_r_mm": None}))


@given(st.floats(0.5, 250.0))
def test_a_stated_diameter_has_the_points_of_the_diameter(diameter: float) -> None:
    assert r_points(stated_mm(diameter)) == r_points(diameter)
    assert abs(stated_mm(diameter) - diameter) < 1.0


def test_the_schema_and_the_points_have_the_same_thresholds() -> None:
    schema = load_schema()
    cases = (
        ("size_class", r_points, SIZE_CLASS, 1.0, (0.0, 90.0)),
        ("collecting_nearness", n_points, NEARNESS, 1.0, (0.0, 12.0)),
        # Up to 5 % is the roughness of a mask; a reader who writes 3 % means it.
        ("exophytic", e_points, EXOPHYTIC, 100.0, (0.051, 1.0)),
    )
    for name, points, words, scale, (low, high) in cases:
        measure = schema[name].measure
        assert measure is not None
        edges = [bound / scale + step for bound in measure.bounds for step in (-1e-6, 0.0, 1e-6)]
        for value in [*np.linspace(low, high, 181), *(edge for edge in edges if low <= edge <= high)]:
            assert measure.class_of(value * scale) == words[points(value)], (name, value)
