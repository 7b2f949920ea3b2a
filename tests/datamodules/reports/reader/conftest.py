"""The rules that all tests of this folder read with."""

from __future__ import annotations

import pytest

from datamodules.reports.reader.rules import RuleExtractor


@pytest.fixture(scope="session")
def rules() -> RuleExtractor:
    """The suite's own."""
    return RuleExtractor()
