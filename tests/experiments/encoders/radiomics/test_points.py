"""Radiomics as points of a curve: by the same command, on training patients alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from datamodules.cohort.labels import Label
from experiments.cli import main
from experiments.encoders.clinical_features import check_columns
from experiments.encoders.radiomics.patient_features import reduced
from experiments.finetuning.boosting import boosted_classes, boosted_survival
from tests.experiments.finetuning.test_finetune import TINY

# Few features, which are measured soon.
MEASURED = ("--baseline.radiomics.spacing_mm=0", '--baseline.radiomics.masks={"lesion": ["statistics"]}')


def _run(root: Path, runs: Path, task: str, encoder: str, *more: str) -> Path:
    short = runs.parent / "tiny.yaml"
    short.write_text(yaml.safe_dump(TINY))
    extra = [f"--config={short}", *MEASURED, *more]
    wanted = [f"--task={task}", f"--encoder={encoder}", f"--data={root}", f"--runs={runs}", "--mode=probe"]
    assert main(["finetune", *wanted, f"--extra={json.dumps(extra)}"]) == 0
    return runs / "renal/tiny" / task / f"{encoder}-probe-f1-s42"


def _predicted(root: Path, runs: Path) -> pd.DataFrame:
    runs.mkdir()
    return pd.read_parquet(_run(root, runs / "runs", "malignancy", "radiomics_linear") / "predictions.parquet")


@pytest.mark.slow
def test_points_of_classes_and_of_survival(
    lesion_root: Path, tmp_path: Path, measured: list, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    folder = _run(lesion_root, runs, "malignancy", "radiomics")
    first = pd.read_parquet(folder / "predictions.parquet")
    assert first[["score_benign", "score_malignant"]].sum(axis=1).to_numpy() == pytest.approx(1.0)
    # Malignant lesions are brighter: nobody who measures inside the mask can miss it.
    table = pd.read_csv(folder / "results.csv")
    assert table.loc[table["group"] == "pooled external", "auroc"].item() > 0.9
    stored = yaml.safe_load((folder / "config.yaml").read_text())["baseline"]
    assert (stored["model"], stored["radiomics"]["spacing_mm"]) == ("boosting", 0.0)
    count = len(measured)
    survival = pd.read_parquet(_run(lesion_root, runs, "os", "radiomics") / "predictions.parquet")
    assert len(measured) == count  # every patient of another task was measured already
    curve = survival[[name for name in survival if name.startswith("survival_")]].to_numpy()
    assert curve.shape[1] > 1
    assert ((curve >= 0) & (curve <= 1)).all()
    assert (np.diff(curve, axis=1) <= 1e-12).all()
    assert np.corrcoef(survival["risk"], curve[:, -1])[0, 1] < 0
    # Another width of the bins is another configuration, refused under the same name.
    short = runs.parent / "tiny.yaml"
    extra = json.dumps([f"--config={short}", *MEASURED, "--baseline.radiomics.bin_width_hu=10"])
    wanted = ["--task=os", "--encoder=radiomics", f"--data={lesion_root}", f"--runs={runs}", "--mode=probe"]
    assert main(["finetune", *wanted, f"--extra={extra}"]) == 2
    assert "baseline.radiomics" in capsys.readouterr().err


@pytest.mark.slow
def test_no_label_of_anyone_but_training_and_validation_enters(
    lesion_root: Path, tmp_path: Path, measured: list
) -> None:
    before = pd.read_parquet(
        _run(lesion_root, tmp_path / "a", "malignancy", "radiomics_linear") / "predictions.parquet"
    )
    path = lesion_root / "patients.parquet"
    patients = pd.read_parquet(path)
    outside = patients["center"].str.startswith("E")
    patients.loc[outside, "malignancy"] = 1 - patients.loc[outside, "malignancy"]
    patients.to_parquet(path)
    after = _predicted(lesion_root, tmp_path / "b")
    assert (before["target"] != after["target"]).any()
    np.testing.assert_array_equal(before["score_malignant"], after["score_malignant"])
    shared = [sorted(folder.glob("**/features/radiomics-*.parquet")) for folder in (tmp_path / "a", tmp_path / "b")]
    pd.testing.assert_frame_equal(*(pd.read_parquet(found[0]) for found in shared))


def test_size_is_refused_where_it_is_the_label() -> None:
    label = Label("renal_r", "renal_r", table="kidneys", classes=[1, 2, 3], class_names=["1", "2", "3"])
    with pytest.raises(Exception, match="would read the label"):
        check_columns(label, (), radiomics=True)


@pytest.mark.slow
@pytest.mark.parametrize("patients", [12, 120])
def test_boosting_is_the_same_in_any_order_of_validation_and_works_on_few(patients: int) -> None:
    rng = np.random.default_rng(0)
    feature, target = rng.normal(size=(patients, 30)), np.arange(patients) % 4 > 0
    feature[:, 0] += 3 * target
    val, known = rng.normal(size=(20, 30)), np.arange(20) % 2
    val[:, 0] += 3 * known

    def area(score: np.ndarray) -> float:
        from sklearn.metrics import roc_auc_score

        return float(roc_auc_score(known, score[:, 1]))

    found = boosted_classes(feature, target.astype(int), np.ones(patients), area, val, 42)
    again = boosted_classes(feature, target.astype(int), np.ones(patients), area, val, 42)
    np.testing.assert_array_equal(found.model.predict_proba(val), again.model.predict_proba(val))
    assert found.validation == area(found.model.predict_proba(val))
    assert found.validation > 0.7
    outcome = np.array(
        list(zip(target, rng.exponential(10, patients), strict=True)), dtype=[("event", bool), ("months", float)]
    )
    unknown = boosted_survival(feature, outcome, lambda risk: float("nan"), val, 42)
    assert (unknown.depth, unknown.trees) == (2, 50)
    assert np.isnan(unknown.validation)


def test_components_are_learned_from_training_patients() -> None:
    rng = np.random.default_rng(1)
    train, test = rng.normal(size=(12, 40)), rng.normal(size=(5, 40))
    (_, first), (_, alone) = reduced([(np.arange(12), train), (np.arange(5), test)], 0)
    (_, same), (_, moved) = reduced([(np.arange(12), train), (np.arange(5), test * 7)], 0)
    assert first.shape == (12, 11)
    np.testing.assert_array_equal(first, same)
    assert not np.allclose(alone, moved)
