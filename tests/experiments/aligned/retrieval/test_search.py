"""Retrieval end to end on a tiny cohort, against a loop over all pairs."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules.cohort.cohort import Cohort
from datamodules.reports.schema import load_schema
from datamodules.reports.sides import side_reports
from experiments.aligned.retrieval.search import (
    ALIGNED,
    TO_REPORT,
    TO_SCAN,
    Kidneys,
    _data,
    embed_kidneys,
    ranks_of,
    retrieval,
    retrieval_table,
)
from experiments.aligned.zero_shot.report_baseline import attribute_text, tfidf_embeddings
from tests.experiments.aligned_tiny import export, extra_flags, fill_cache, tiny_space, with_reports


@pytest.fixture(scope="module")
def cohort_root(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_reports(Path(shutil.copytree(tiny_root, tmp_path_factory.mktemp("retrieval") / "tiny")))


@pytest.fixture(scope="module")
def kidneys(cohort_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Kidneys:
    folder = tmp_path_factory.mktemp("space")
    module = _data(cohort_root, "demo", 42, None, "aligned", extra_flags(folder))
    return embed_kidneys(tiny_space(folder), module)


def test_every_kidney_outside_the_pretraining_centres_is_there_once(kidneys: Kidneys, cohort_root: Path) -> None:
    people = Cohort.load(cohort_root).patients()
    expected = set(people.loc[people["role"] != "pretrain", "patient_id"])
    assert set(kidneys.table["patient_id"]) == expected
    assert len(kidneys.table) == 2 * len(expected)
    assert kidneys.table["lesion"].sum() == len(expected)
    np.testing.assert_allclose(np.linalg.norm(kidneys.scans[ALIGNED], axis=1), 1, rtol=1e-5)


def test_equivalent_reports_share_a_group(kidneys: Kidneys) -> None:
    table = kidneys.table
    assert len(set(table.loc[~table["lesion"], "group"])) == 1
    sizes = table[table["lesion"]].groupby("group")["text"].agg(["nunique", "size"])
    assert (sizes["nunique"] > 1).any(), "the same attributes in other words are one group"
    assert len(table.drop_duplicates(["text", "group"])) == len(table.drop_duplicates("text"))


def test_ranks_are_those_of_a_loop(kidneys: Kidneys) -> None:
    table = kidneys.table
    mask = (table["center"] == "E1").to_numpy(dtype=bool)
    own, scans = table[mask].reset_index(drop=True), kidneys.scans[ALIGNED][mask]
    reports = kidneys.reports[ALIGNED][mask]
    distinct = own.drop_duplicates("text_id").index
    for direction in (TO_SCAN, TO_REPORT):
        found, facts = ranks_of(kidneys, ALIGNED, direction, mask)
        assert set(found.candidates) == {len(own) if direction == TO_SCAN else len(distinct)}
        for query in range(0, len(own), 5):
            pairs = (
                [(float(reports[query] @ scans[i]), own.loc[i, "group"]) for i in own.index]
                if direction == TO_SCAN
                else [(float(scans[query] @ reports[i]), own.loc[i, "group"]) for i in distinct]
            )
            best = max(value for value, group in pairs if group == own.loc[query, "group"])
            worse = [value for value, group in pairs if group != own.loc[query, "group"] and value >= best]
            assert found.rank[query] == 1 + len(worse)
            pool = own.index if direction == TO_SCAN else distinct
            first = pool[int(np.argmax([value for value, _ in pairs]))]
            mine, theirs = (
                {(name, int(code)) for name, code in enumerate(kidneys.attributes[mask][row]) if code != -100}
                for row in (query, first)
            )
            assert facts.alike[query] == len(mine & theirs)
            assert facts.stated[query] == len(mine) + len(theirs)


def test_a_perfect_model_finds_everything_and_groups_are_complete(kidneys: Kidneys) -> None:
    exact = np.eye(int(kidneys.table["group"].max()) + 1, dtype=np.float32)[kidneys.table["group"].to_numpy(dtype=int)]
    perfect = replace(kidneys, scans={ALIGNED: exact}, reports={ALIGNED: exact})
    table = retrieval_table([perfect], replicates=50)
    assert (table["recall_1"] == 1).all()
    assert (table["facts_f1"] == 1).all()
    assert (table["facts_f1_chance"] < 1).all()
    assert (table["median_rank"] == 1).all()
    names = ["internal I1", "internal I2", "all internal", "external E1", "external E2", "pooled external"]
    assert list(dict.fromkeys(table["group"])) == names
    assert set(table["queries"]) == {"all kidneys", "kidneys with a lesion"}
    assert (table["recall_1_chance"] < 1).all()
    assert (table["recall_1_chance"] <= table["recall_5_chance"]).all()
    pooled = retrieval_table([perfect, perfect], replicates=50)
    assert pooled["n"].tolist() == (2 * table["n"]).tolist()


def test_intervals_hold_the_estimate(kidneys: Kidneys) -> None:
    table = retrieval_table([kidneys], replicates=200)
    for metric in ("recall_1", "recall_5", "recall_10", "median_rank", "facts_f1"):
        assert (table[f"{metric}_low"] <= table[metric]).all()
        assert (table[metric] <= table[f"{metric}_high"]).all()


@pytest.mark.slow
def test_the_command_writes_table_picture_and_no_text_of_a_report(cohort_root: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    fill_cache(runs, "tiny", side_reports(Cohort.load(cohort_root))["text"].tolist())
    model = str(export(tmp_path / "model"))
    assert retrieval(data=cohort_root, runs=runs, model=model, replicates=50, extra=extra_flags(tmp_path)) == 0
    folder = runs / "renal/tiny/retrieval/aligned-s42"
    assert {path.name for path in folder.iterdir()} == {
        "kidneys.parquet", "mlflow.json", "results.csv", "results-data.parquet", "retrieval.png",
    }  # fmt: skip
    table = pd.read_csv(folder / "results.csv")
    assert len(table) == 6 * 2 * 2
    assert "text" not in pd.read_parquet(folder / "kidneys.parquet")
    assert not list((runs / "mlartifacts").rglob("*.png"))


def test_attributes_as_text_name_what_is_known() -> None:
    schema = load_schema()
    codes = np.full((2, len(schema.names)), -100)
    codes[0, 0], codes[0, 2] = 0, 1
    name, other = schema.names[0], schema.names[2]
    words = attribute_text(codes, schema)
    assert words == [f"{name}={schema.classes[name][0]} {other}={schema.classes[other][1]}", ""]
    first, second = tfidf_embeddings(words, words, [words[0], "unknown=word"])
    np.testing.assert_allclose(first @ second.T, [[1, 0], [0, 0]], atol=1e-6)
