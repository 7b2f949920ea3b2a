"""Damaged and odd inputs: none ends in a trace, and none changes a volume or a table without a word."""

from __future__ import annotations

from tests.datamodules.importers.hostile import run


def test_no_input_is_silent_and_none_ends_in_a_trace() -> None:
    outcomes = run(20, seed=23)
    assert [text for kind, text in outcomes if kind in ("silent", "trace")] == []
    assert len(outcomes) == 20
    assert any(kind == "right" for kind, _ in outcomes)
