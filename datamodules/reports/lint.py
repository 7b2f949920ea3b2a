"""The linter of reports: imaging findings only, nothing that pathology or follow-up would tell."""

from __future__ import annotations

import re

FORBIDDEN: dict[str, str] = {
    "histology": r"carcinoma|\b(cc|p|ch)?rccs?\b|renal cell|oncocyt\w*|angiomyolip\w*|\baml\b|sarcom\w*|rhabdoid"
    r"|adenoma\w*|papillary|chromophobe|clear[- ]cell|histolog\w*|patholog(?!ically enlarged)\w*|biops\w*",
    "malignancy": r"malign\w*|\bbenign\w*|cancer\w*|neoplas\w*|tumou?r\w*|metasta\w*|indolent|aggressive\w*",
    "grade": r"\bisup\b|fuhrman|\bgrad(e|es|ed|ing)\b",
    "stage": r"\b[cpy]{0,2}t[0-4][abc]?\b|\b[cpy]{0,2}[nm][01x]\b|\bstag(e|es|ed|ing)\b|\btnm\b",
    "outcome": r"surviv\w*|recurren\w*|relaps\w*|prognos\w*|\bdeath\b|\bdied\b|deceased|follow-up showed|mortality",
    "treatment": r"nephrectom\w*|resect\w*|ablat\w*",
}
"""What a word would give away, and the words."""

_COMPILED = {kind: re.compile(pattern, re.IGNORECASE) for kind, pattern in FORBIDDEN.items()}


def lint_report(text: str) -> list[str]:
    """Words that a report of imaging findings may not hold, each as 'kind: word'; empty for a clean report."""
    return [f"{kind}: {match.group(0)}" for kind, pattern in _COMPILED.items() for match in pattern.finditer(text)]
