"""The statistics benchmark runs, and stops when both sides do not give the same numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datamodules.errors import DataError
from experiments.benchmarks import statistics
from experiments.benchmarks.statistics import contests, measure


def test_it_writes_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entrants = contests(60, 2)
    monkeypatch.setattr(statistics, "contests", lambda patients, looped: contests(patients, 2))
    statistics.run(quick=True, out=tmp_path / "statistics.json")
    figures = json.loads((tmp_path / "statistics.json").read_text())
    assert figures["quick"]
    assert set(figures["statistics"]) == set(entrants)
    for row in figures["statistics"].values():
        assert row["largest_difference"] < 1e-9
        assert row["ratio_range"][0] <= row["ratio"] <= row["ratio_range"][1]
        assert row["loop_seconds_extrapolated"] > 0


def test_other_numbers_stop_it() -> None:
    contest = contests(60, 3)["AUC"]
    wrong = contest._replace(vectorised=lambda weights: contest.vectorised(weights) + 1e-3)
    with pytest.raises(DataError, match=r"differs from the library's loop by 0\.00"):
        measure(wrong, 60, 20, 1)
