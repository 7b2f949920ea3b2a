"""The weights that each rule of selection picks, and the table of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from callbacks.predictions import PREDICTIONS
from datamodules.cohort.cohort import Cohort
from experiments.finetuning.finetune import finetune
from experiments.finetuning.point import Point
from tests.benchmarks.selection_rules import train_and_score
from tests.benchmarks.selection_table import BEST_AUC, BEST_LOSS, EMA, LAST, selection_table
from tests.tiny import TINY


@pytest.mark.slow
def test_the_last_weights_score_as_the_finished_run_does_and_the_best_are_no_worse(
    tiny_root: Path, tmp_path: Path
) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump({**TINY, "trainer": {"max_epochs": 4, "accelerator": "cpu"}}))
    point = Point("malignancy", 1.0, data=tiny_root, runs=tmp_path / "runs", extra=(f"--config={config}",))
    cohort = Cohort.load(tiny_root)
    scores = train_and_score(point, cohort)
    assert set(scores["rule"]) == {BEST_AUC, BEST_LOSS, LAST, EMA}
    finetune(point, report=False)
    finished = pd.read_parquet(point.folder(cohort) / PREDICTIONS).set_index("patient_id")["score_malignant"]
    last = scores[scores["rule"] == LAST].set_index("patient_id")["score"]
    assert len(last) == len(finished)
    np.testing.assert_allclose(1 / (1 + np.exp(-last)), finished[last.index], atol=1e-6)
    validated = scores[scores["part"] == "val"].groupby("rule")[["target", "score"]]
    value = {rule: roc_auc_score(own["target"], own["score"]) for rule, own in validated}
    assert value[BEST_AUC] >= value[LAST]


def test_the_table_says_by_how_much_validation_promised_too_much(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = [("val", "internal", 40), ("test", "internal", 60), ("test", "external", 80)]
    tables = []
    for seed in (1, 2, 3):
        for part, role, count in parts:
            target = np.arange(count) % 2
            for rule in (BEST_AUC, BEST_LOSS, LAST, EMA):
                shown = 3.0 if (part, rule) == ("val", BEST_AUC) else 1.0
                score = shown * target + rng.normal(size=count)
                names = [f"{part}-{role}-{number:03d}" for number in range(count)]
                columns = {"patient_id": names, "role": role, "target": target, "part": part, "score": score}
                tables.append(pd.DataFrame(columns).assign(rule=rule, encoder="scratch", fraction=1.0, seed=seed))
    scores = pd.concat(tables)
    scores.sample(frac=1, random_state=0).to_parquet(tmp_path / "scores.parquet")
    table = selection_table(tmp_path).set_index("rule")
    own = scores[(scores["rule"] == BEST_AUC) & (scores["role"] == "internal")]
    by_seed = own.groupby(["part", "seed"])[["target", "score"]].apply(lambda g: roc_auc_score(g["target"], g["score"]))
    bias = by_seed["val"] - by_seed["test"]
    assert table.loc[BEST_AUC, "bias"] == pytest.approx(bias.mean())
    assert table.loc[BEST_AUC, "bias_se"] == pytest.approx(bias.std() / np.sqrt(3))
    assert table.loc[BEST_AUC, "bias"] > 0.1 > abs(table.loc[LAST, "bias"])
    assert table.loc[EMA, "less_last_low"] < table.loc[EMA, "less_last"] < table.loc[EMA, "less_last_high"]
    assert (table["external_n"] == 80).all()
    assert (table["external_positive"] == 40).all()
