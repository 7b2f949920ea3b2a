"""The tasks through the real command: fine-tuned and probed, tested, compared, resumed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow.tracking import MlflowClient
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from sksurv.metrics import concordance_index_censored

from datamodules.errors import DataError
from datamodules.files import read_parquet, write_parquet
from datamodules.importers.builder import build_cohort
from experiments.cli import main
from experiments.finetuning.finetune import centred, finetune
from experiments.finetuning.point import Point
from experiments.registry import TASKS
from experiments.runs.tracking import tracking_uri
from experiments.statistics.agreement import cohen_kappa
from tests.tiny import CONTRACT, TINY, TinySource


@pytest.fixture
def tiny_config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


def _run(root: Path, runs: Path, config: Path, task: str, *extra: str, mode: str = "finetune") -> int:
    flags = json.dumps([f"--config={config}", *extra])
    return main(
        ["finetune", f"--task={task}", f"--data={root}", f"--runs={runs}", f"--mode={mode}", f"--extra={flags}"]
    )


def _harrell(rows: pd.DataFrame, endpoint: str) -> float:
    known = rows[rows[f"{endpoint}_event"].notna()]
    event, months = known[f"{endpoint}_event"].to_numpy(bool), known[f"{endpoint}_months"].to_numpy(float)
    return float(concordance_index_censored(event, months, known["risk"].to_numpy())[0])


@pytest.mark.slow
def test_survival_is_trained_on_one_endpoint_and_scored_on_all(
    tiny_root: Path, tmp_path: Path, tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(tiny_root, tmp_path, tiny_config, "rfs", "--data.init_args.phases=all") == 0
    shown = capsys.readouterr().out
    assert "C-index (95 % interval)" in shown
    assert "Phantom results" in shown
    folder = tmp_path / "renal/tiny/rfs/scratch-finetune-f1-s42"
    assert len(list(folder.glob("km_*.png"))) + shown.count("No Kaplan-Meier curves of") == 2
    table, predictions = pd.read_csv(folder / "results.csv"), pd.read_parquet(folder / "predictions.parquet")
    assert set(predictions["part"]) == {"val", "test"}
    assert not predictions["patient_id"].duplicated().any()
    curves = predictions[[name for name in predictions if name.startswith("survival_")]].to_numpy()
    assert (np.diff(curves, axis=1) <= 0).all()
    assert (curves[:, -1] < 1).all()  # the last cut point lies behind events of the training patients
    hazard, risk = -np.log(curves[:, -1]), predictions["risk"].to_numpy()
    np.testing.assert_allclose(hazard / hazard[0], np.exp(risk - risk[0]), rtol=1e-4)
    pooled = predictions[(predictions["part"] == "test") & (predictions["role"] == "external")]
    rows = table[table["group"] == "pooled external"].set_index("endpoint")
    assert list(rows.index) == ["rfs", "dss", "os"]
    for endpoint, row in rows.iterrows():
        known = pooled[pooled[f"{endpoint}_event"].notna()]
        assert (row["n"], row["events"]) == (len(known), known[f"{endpoint}_event"].sum())
        assert row["c_index"] == pytest.approx(_harrell(pooled, str(endpoint)), abs=1e-9)
        assert row["low"] <= row["c_index"] <= row["high"]
    assert len(set(rows["n"])) > 1  # metastatic patients have no recurrence, and some deaths no cause

    client = MlflowClient(tracking_uri(tmp_path))
    experiment = client.get_experiment_by_name("renal/tiny/rfs")
    logged = {run.info.run_name: run.data for run in client.search_runs([experiment.experiment_id])}
    metrics = logged["scratch-finetune-f1-s42"].metrics
    assert metrics["c_index/pooled_external"] == pytest.approx(rows.loc["rfs", "c_index"])
    assert metrics["events_dss/pooled_external"] == rows.loc["dss", "events"]
    assert {"val/c_index", "val/loss", "test/c_index"} <= set(metrics)


@pytest.mark.slow
def test_interrupted_survival_training_resumes_to_the_same_predictions(
    tiny_root: Path, tmp_path: Path, tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory of risks is part of the state of a run."""
    assert _run(tiny_root, tmp_path / "whole", tiny_config, "dss") == 0

    def interrupt(self: object, trainer: object, *_: object) -> None:
        if trainer.current_epoch == 1:  # type: ignore[attr-defined]
            raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr("callbacks.progress.Throughput.on_train_epoch_start", interrupt)
        with pytest.raises(RuntimeError, match="power cut"):
            _run(tiny_root, tmp_path / "cut", tiny_config, "dss")
    folder = Path("renal/tiny/dss/scratch-finetune-f1-s42")
    assert main(["resume", str(tmp_path / "cut" / folder), f"--runs={tmp_path / 'cut'}"]) == 0
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "whole" / folder / "predictions.parquet"),
        pd.read_parquet(tmp_path / "cut" / folder / "predictions.parquet"),
    )


@pytest.mark.slow
def test_discrete_time_models_predict_curves(tiny_root: Path, tmp_path: Path, tiny_config: Path) -> None:
    flags = ("--model.init_args.objective=logistic_hazard", "--trainer.max_epochs=1")
    assert _run(tiny_root, tmp_path, tiny_config, "os", *flags) == 0
    predictions = pd.read_parquet(tmp_path / "renal/tiny/os/scratch-finetune-f1-s42/predictions.parquet")
    curves = predictions[[name for name in predictions if name.startswith("survival_")]].to_numpy()
    assert curves.shape[1] >= 3
    assert ((curves >= 0) & (curves <= 1)).all()
    assert (np.diff(curves, axis=1) <= 1e-9).all()


@pytest.mark.slow
def test_three_classes_have_a_macro_auc_and_a_kappa(
    tiny_root: Path, tmp_path: Path, tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--data.init_args.phases=all", "--model.init_args.fusion=attention")
    assert _run(tiny_root, tmp_path, tiny_config, "renal_a", *flags) == 0
    assert "macro AUC (95 % interval)" in capsys.readouterr().out
    folder = tmp_path / "renal/tiny/renal_a/scratch-finetune-f1-s42"
    assert (folder / "roc.png").is_file()
    predictions = pd.read_parquet(folder / "predictions.parquet")
    pooled = predictions[(predictions["part"] == "test") & (predictions["role"] == "external")]
    score = pooled[["score_anterior", "score_x", "score_posterior"]].to_numpy()
    row = pd.read_csv(folder / "results.csv").set_index("group").loc["pooled external"]
    assert row["auroc"] == pytest.approx(roc_auc_score(pooled["target"], score, multi_class="ovr"))
    expected = cohen_kappa_score(pooled["target"], score.argmax(axis=1), weights="quadratic")
    assert row["kappa"] == pytest.approx(expected if np.isfinite(expected) else 0.0)
    assert row["minority"] == 16  # eight of each class


@pytest.mark.slow
def test_classes_without_an_order_have_a_plain_kappa_and_a_table_of_each(
    tmp_path: Path, tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_cohort(TinySource(per_center=40), tmp_path / "data", CONTRACT, workers=1)
    table, header = read_parquet(tmp_path / "data/patients.parquet")
    table.loc[table["patient_id"] == "E1-001", "histology"] = "Wilms' tumour"
    write_parquet(tmp_path / "data/patients.parquet", table, header)
    assert _run(tmp_path / "data", tmp_path, tiny_config, "subtype", mode="probe") == 0
    shown = capsys.readouterr().out
    assert "1 patients are in no class of task subtype and are left out: Wilms' tumour 1." in shown
    assert "each class against the rest" in shown
    folder = tmp_path / "renal/tiny/subtype/scratch-probe-f1-s42"
    predictions = pd.read_parquet(folder / "predictions.parquet")
    pooled = predictions[(predictions["part"] == "test") & (predictions["role"] == "external")]
    assert "E1-001" not in set(pooled["patient_id"])
    score = pooled[[name for name in pooled if name.startswith("score_")]].to_numpy()
    assert score.shape[1] == 5
    row = pd.read_csv(folder / "results.csv").set_index("group").loc["pooled external"]
    assert row["auroc"] == pytest.approx(roc_auc_score(pooled["target"], score, multi_class="ovr"))
    assert row["kappa"] == pytest.approx(cohen_kappa_score(pooled["target"], score.argmax(axis=1)))
    classes = pd.read_csv(folder / "classes.csv").set_index("group").loc["pooled external"].set_index("class")
    assert classes["n"].sum() == row["n"] == len(pooled)
    for number, (name, each) in enumerate(classes.iterrows()):
        assert each["n"] == (pooled["target"] == number).sum()
        assert each["auroc"] == pytest.approx(roc_auc_score(pooled["target"] == number, pooled[f"score_{name}"]))
        assert each["low"] <= each["auroc"] <= each["high"]
    assert classes["auroc"].mean() == pytest.approx(row["auroc"])


SERVED = {name: entry for name, entry in TASKS.items() if name != "subtype"}
"""Tasks that the tiny cohort has patients enough for."""


@pytest.mark.slow
def test_every_task_is_probed_features_computed_once_and_the_finished_kept(
    tiny_root: Path,
    tmp_path: Path,
    tiny_config: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("experiments.finetuning.finetune.TASKS", SERVED)
    assert _run(tiny_root, tmp_path, tiny_config, "all", mode="probe") == 0
    shown = capsys.readouterr().out
    summary = shown[shown.index("All tasks, scratch, probe") :]
    for task in SERVED:
        assert sum(line.startswith(f"{task} ") for line in summary.splitlines()) == 2  # internal and pooled external
        assert (tmp_path / f"renal/tiny/{task}/scratch-probe-f1-s42/DONE").is_file()
    (cached,) = (tmp_path / "renal/tiny/features").rglob("features.npz")
    with np.load(cached) as content:
        assert len(content["key"]) == 4 * 12 * 2  # four centres outside pretraining, two phases
    before = cached.stat().st_mtime_ns
    # Goes on where it stopped: what is finished is reported, the one that is not is run, from the cached features.
    (tmp_path / "renal/tiny/os/scratch-probe-f1-s42/DONE").unlink()
    assert _run(tiny_root, tmp_path, tiny_config, "all", mode="probe") == 0
    again = capsys.readouterr().out
    assert again.count("is finished already") == len(SERVED) - 1
    assert "Computing features" not in again
    assert cached.stat().st_mtime_ns == before
    assert again[again.index("All tasks") :] == summary
    assert main(["compare", "--task=rfs", "--mode=probe", f"--data={tiny_root}", f"--runs={tmp_path}"]) == 0
    table = pd.read_csv(tmp_path / "renal/tiny/rfs/comparison-probe.csv")
    assert set(table["endpoint"]) == {"rfs", "dss", "os"}
    assert main(["compare", "--task=rfs", f"--data={tiny_root}", f"--runs={tmp_path}"]) == 2  # nothing fine-tuned


@pytest.mark.slow
def test_a_refused_task_does_not_stop_the_others(
    tiny_root: Path, tmp_path: Path, tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.finetuning.finetune.TASKS", {name: TASKS[name] for name in ("rfs", "malignancy")})
    point = Point("all", 0.5, data=tiny_root, runs=tmp_path, mode="probe", extra=(f"--config={tiny_config}",))
    with pytest.raises(DataError, match=r"1 of 2 tasks were refused \(rfs\).*smallest fraction that works"):
        finetune(point)
    assert (tmp_path / "renal/tiny/malignancy/scratch-probe-f0.5-s42/DONE").is_file()


@pytest.mark.slow
def test_folds_are_probed_and_pooled_on_one_level(tiny_folds_root: Path, tmp_path: Path, tiny_config: Path) -> None:
    assert _run(tiny_folds_root, tmp_path, tiny_config, "os", mode="probe") == 0
    folder = tmp_path / "renal/tiny/os/scratch-probe-f1-s42"
    pooled = pd.read_parquet(folder / "predictions.parquet")
    validated = pooled[pooled["part"] == "val"].groupby("fold")["risk"].mean()
    np.testing.assert_allclose(validated, 0.0, atol=1e-9)
    assert pooled.loc[pooled["part"] == "test", "patient_id"].is_unique
    assert pd.read_csv(folder / "results.csv")["group"].unique().tolist() == ["out-of-fold"]
    plain = pd.DataFrame({"part": ["val", "test"], "score_a": [0.1, 0.2]})
    assert centred(plain) is plain


@pytest.mark.parametrize("seed", range(3))
def test_quadratic_kappa_is_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    target, predicted = rng.integers(0, 3, 60), rng.integers(0, 3, 60)
    weights = np.stack([np.ones(60), rng.integers(0, 3, 60)])
    found = cohen_kappa(target, predicted, 3)(weights)
    for row, value in zip(weights, found, strict=True):
        expected = cohen_kappa_score(target, predicted, weights="quadratic", sample_weight=row)
        assert value == pytest.approx(expected)
    found = cohen_kappa(target, predicted, 3, ordered=False)(weights)
    assert found == pytest.approx([cohen_kappa_score(target, predicted, sample_weight=row) for row in weights])
    assert np.isnan(cohen_kappa(np.zeros(4, int), np.zeros(4, int), 3)(np.ones((1, 4))))[0]
