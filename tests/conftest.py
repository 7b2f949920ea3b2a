"""Cohorts and configurations shared by the tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.importers.builder import build_cohort
from tests.tiny import CONTRACT, TinySource

# Beside other workers a second thread only waits.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)

# An error that no one expected ends a test with its trace, not with a sentence.
os.environ["RENAL_DEBUG"] = "1"


@pytest.fixture(scope="session", autouse=True)
def _memory_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the suite remembers of imports is kept with the tests, not with their user."""
    os.environ["RENAL_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort with roles; read only."""
    root = tmp_path_factory.mktemp("cohorts") / "tiny"
    build_cohort(TinySource(), root, CONTRACT, workers=1)
    return root


@pytest.fixture(scope="session")
def tiny_folds_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort with folds; read only."""
    root = tmp_path_factory.mktemp("cohorts") / "tiny_folds"
    build_cohort(TinySource(per_center=10, evaluation="folds"), root, CONTRACT, workers=1)
    return root


@pytest.fixture
def tiny_copy(tiny_root: Path, tmp_path: Path) -> Path:
    """A copy of the cohort that a test may damage."""
    return Path(shutil.copytree(tiny_root, tmp_path / "tiny"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The development data: real masks, one real CT and real reports."""
    folder = os.environ.get("RENAL_DATA")
    if not folder:
        pytest.skip("RENAL_DATA is not set: real masks and scans do not ship with the project")
    return Path(folder)


@pytest.fixture
def browser() -> Iterator[Any]:
    """Chromium, where playwright and a browser are installed."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no browser to test in")
    found = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_api.sync_playwright() as running:
        try:
            opened = running.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"no browser can be started: {str(error).splitlines()[0]}")
        yield opened
        opened.close()
