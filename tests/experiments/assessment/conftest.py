"""What assessments are tested with."""

from __future__ import annotations

import pytest

from tests.experiments.assessment.place import Place, make_place


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Scans, a cohort and its runs."""
    return make_place(tmp_path_factory.mktemp("assessment"))
