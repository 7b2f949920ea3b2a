"""What the rules read out of a report, in short."""

from __future__ import annotations

from datamodules.reports.reader.rules import RuleExtractor


def said(rules: RuleExtractor, text: str) -> dict[str, str]:
    """Value by side and attribute, each with the words of the report that state it."""
    (found,) = rules.extract([text])
    for one in found:
        assert text[one.start : one.end] == one.evidence
        assert one.evidence
    return {f"{one.side} {one.attribute}": one.value for one in found}
