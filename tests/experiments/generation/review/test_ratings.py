"""Ratings on the disk: whole, replaced and refused; orders that are drawn; means with intervals."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from datamodules.errors import DataError
from experiments.generation.review.cases import Case, case_order, lettered
from experiments.generation.review.ratings import COLUMNS, Rating, Ratings, read_ratings, write_ratings
from experiments.generation.review.review_summary import (
    agreement_table,
    finished_ratings,
    format_summary,
    summary_table,
)

SYSTEMS = ("base", "template", "writer")
CASES = [Case(f"P{number}", "S1", "left", "reference", dict.fromkeys(SYSTEMS, "text")) for number in range(120)]


def _rating(number: int = 0, system: str = "writer", reviewer: str = "R1", **said: object) -> Rating:
    return Rating(reviewer, f"P{number // 2}", "S1", ("left", "right")[number % 2], system, "A", 1, 1, **said)  # type: ignore[arg-type]


def test_a_rating_is_read_as_it_was_said(tmp_path: Path) -> None:
    ratings = Ratings(tmp_path / "ratings.csv")
    comment = 'Two "words", a\nline; =1+1, ümlaut'
    kept = ratings.save(_rating(quality=4, errors="none", comment=comment, seconds=12.5, marks_visible=True))
    half = ratings.save(_rating(1, quality=2))
    assert kept.complete
    assert not half.complete
    assert read_ratings(tmp_path / "ratings.csv") == [kept, half]
    again = Ratings(tmp_path / "ratings.csv").save(_rating(quality=1, errors="major"))
    assert [row.quality for row in read_ratings(tmp_path / "ratings.csv")] == [1, 2]
    assert again.first_rated == kept.first_rated
    assert again.marks_visible  # they were seen before
    assert [path.name for path in tmp_path.iterdir()] == ["ratings.csv"]


@pytest.mark.parametrize("comment", ["=cmd|'/C calc'!A0", "-1+1", "@x", "'=1", "\t=1", "fine - really"])
def test_a_comment_is_no_formula_and_reads_back(comment: str, tmp_path: Path) -> None:
    write_ratings(tmp_path / "ratings.csv", [_rating(quality=3, errors="none", comment=comment)])
    with (tmp_path / "ratings.csv").open(newline="", encoding="utf-8") as handle:
        (row,) = csv.DictReader(handle)
    assert row["comment"][0] not in "=+-@\t\n"
    assert read_ratings(tmp_path / "ratings.csv")[0].comment == comment


def test_a_full_disk_loses_no_rating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ratings = Ratings(tmp_path / "ratings.csv")
    kept = ratings.save(_rating(quality=4, errors="none"))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match="No space left"):
            ratings.save(_rating(quality=1, errors="major"))
    assert read_ratings(tmp_path / "ratings.csv") == [kept] == ratings.rows()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("R1,P0,S1,left,writer,A,1,1,9,none,,1.0,True,t,t", "quality '9'"),
        ("R1,P0,S1,left,writer,A,1,1,3,fatal,,1.0,True,t,t", "errors 'fatal'"),
        ("R1,P0,S1,left,writer,A,first,1,3,none,,1.0,True,t,t", "row 1"),
        ("R1,P0,S1,left,writer,A,1,1,3,none,,1.0,yes,t,t", "marks_visible is 'yes'"),
        ("R1,P0,S1", "another number of cells"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text(f"{','.join(COLUMNS)}\n{row}\n")
    with pytest.raises(DataError, match=message):
        Ratings(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="columns a, b"):
        Ratings(path)


def test_orders_are_drawn_anew_for_every_case_and_reviewer_and_are_reproducible() -> None:
    first = [lettered(case, 0, "R1") for case in CASES]
    assert first == [lettered(case, 0, "R1") for case in CASES]
    assert all(list(own) == ["A", "B", "C"] and sorted(own.values()) == sorted(SYSTEMS) for own in first)
    share = pd.Series([own["A"] for own in first]).value_counts(normalize=True)
    assert share.between(0.2, 0.47).all()  # a third each, within three standard errors
    assert first != [lettered(case, 0, "R2") for case in CASES]
    assert first != [lettered(case, 1, "R1") for case in CASES]
    order = [case.key for case in case_order(CASES, 0, "R1")]
    assert order == [case.key for case in case_order(CASES, 0, "R1")]
    assert sorted(order) == sorted(case.key for case in CASES)
    assert order != [case.key for case in case_order(CASES, 0, "R2")]


@pytest.fixture(scope="module")
def rated() -> list[Rating]:
    """Two reviewers of twelve kidneys of six patients; R2 left the last kidney half done."""
    rng = np.random.default_rng(0)
    rows = []
    for reviewer in ("R1", "R2"):
        for number in range(12):
            for system in SYSTEMS:
                quality, errors = int(rng.integers(1, 6)), ("none", "minor", "major")[rng.integers(3)]
                rows.append(_rating(number, system, reviewer, quality=quality, errors=errors))
    return [
        row for row in rows if not (row.reviewer == "R2" and row.side == "right" and row.key[1:3] == ("P5", "S1"))
    ] + [
        _rating(11, "writer", "R2", quality=5, errors="none"),
        _rating(11, "base", "R2", quality=5),
    ]


def test_means_are_over_kidneys_that_a_reviewer_finished(rated: list[Rating]) -> None:
    finished = finished_ratings(rated, SYSTEMS)
    assert finished.groupby("reviewer").size().to_dict() == {"R1": 36, "R2": 33}
    table = summary_table(finished, 400).set_index(["system", "measure"])
    for system in SYSTEMS:
        by_kidney: dict[tuple[str, str], list[int]] = {}
        for row in rated:
            last_of_second = row.reviewer == "R2" and (row.patient_id, row.side) == ("P5", "right")
            if row.system == system and not last_of_second:
                by_kidney.setdefault((row.patient_id, row.side), []).append(int(row.quality or 0))
        mean = np.mean([np.mean(own) for own in by_kidney.values()])
        own = table.loc[(system, "quality")]
        assert own["value"] == pytest.approx(mean)
        assert own["low"] < mean < own["high"]
        assert (own["n"], own["kidneys"], own["reviewers"]) == (6, 12, 2)
        assert table.loc[(system, "major"), "value"] <= table.loc[(system, "errors"), "value"]
    with pytest.raises(DataError, match="nothing to summarise"):
        summary_table(finished_ratings([], SYSTEMS))


def test_reviewers_are_compared_by_quadratic_kappa(rated: list[Rating]) -> None:
    finished = finished_ratings(rated, SYSTEMS)
    table = agreement_table(finished, 200).set_index("scale")
    pairs = finished.pivot_table(index=["patient_id", "side", "system"], columns="reviewer", values="quality").dropna()
    assert table.loc["quality", "kappa"] == pytest.approx(
        cohen_kappa_score(pairs["R1"], pairs["R2"], weights="quadratic", labels=[1, 2, 3, 4, 5])
    )
    assert table.loc["errors", "reports"] == len(pairs) == 33
    alone = agreement_table(finished[finished["reviewer"] == "R1"])
    assert alone.empty
    shown = format_summary(summary_table(finished, 50), alone, {"writer": "Report writer"})
    assert "6 patients, 12 kidneys, 2 reviewers" in shown
    assert "Report writer" in shown
