"""Zero-shot classification end to end on a tiny cohort, against a computation by hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.tracking import MlflowClient
from sklearn.metrics import roc_auc_score

from datamodules.augmentation import AugmentationConfig, VolumeAugmentation
from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from datamodules.volumes.shards import VolumeSet
from experiments.aligned.shared_space import SpaceOptions, load_space
from experiments.aligned.zero_shot.classify import zeroshot
from experiments.aligned.zero_shot.prompt_sets import load_prompts
from experiments.aligned.zero_shot.zero_shot_table import MEAN, NEAREST, RANDOM, REPORTS, SPREAD
from experiments.runs.tracking import tracking_uri
from lightning_modules.core.errors import ModelError
from tests.experiments.aligned_tiny import (
    CROP,
    aligned_model,
    export,
    extra_flags,
    fill_cache,
    tiny_space,
    with_reports,
)
from tests.tiny import CONTRACT


@pytest.fixture(scope="module")
def cohort_root(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_reports(Path(shutil.copytree(tiny_root, tmp_path_factory.mktemp("zeroshot") / "tiny")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the runs of all tests: making a store takes longer than any of them."""
    made = tmp_path_factory.mktemp("all")
    for task in ("malignancy", "renal_r"):
        fill_cache(made / "runs", "tiny", load_prompts(task).prompts()[0])
    return made


@pytest.fixture(scope="module")
def done(cohort_root: Path, folder: Path) -> Path:
    """The finished run of malignancy."""
    model = export(folder / "model")
    code = zeroshot(data=cohort_root, runs=folder / "runs", draws=50, model=str(model), extra=extra_flags(folder))
    assert code == 0
    return folder / "runs/renal/tiny/malignancy/aligned-zeroshot-s42"


def test_predictions_are_those_of_a_loop_over_patients(done: Path, cohort_root: Path, tmp_path: Path) -> None:
    found = pd.read_parquet(done / "predictions.parquet").set_index("patient_id")
    people = Cohort.load(cohort_root).patients().set_index("patient_id")
    tested = people[((people["split"] == "test") & (people["role"] == "internal")) | (people["role"] == "external")]
    assert sorted(found.index) == sorted(tested.index)
    assert (found["part"] == "test").all()
    model, space = aligned_model(), tiny_space(tmp_path)
    texts, code = load_prompts("malignancy").prompts()
    prompts = space.texts(texts).astype(float)
    volumes = VolumeSet.find(cohort_root)
    augmentation = VolumeAugmentation(CONTRACT, AugmentationConfig(crop=CROP))
    for patient_id in found.index[::7]:
        rows = volumes.index[(volumes.index["patient_id"] == patient_id) & (volumes.index["side"] == "left")]
        images = np.stack([volumes.read(position)[None] for position in rows["position"]])
        with torch.no_grad():
            embedded = model.embed_image(augmentation.evaluate(torch.from_numpy(images))).double().numpy()
        means = np.stack([prompts[code == number].mean(axis=0) for number in (0, 1)])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        nearest = [(embedded @ prompts[code == number].T).max(axis=1) for number in (0, 1)]
        for prefix, logit in (("score", (embedded @ means.T).mean(axis=0)), ("max", np.mean(nearest, axis=1))):
            score = np.exp(float(model.scale()) * logit)
            assert found.loc[patient_id, f"{prefix}_malignant"] == pytest.approx(score[1] / score.sum(), abs=1e-5)
        assert found.loc[patient_id, "target"] == people.loc[patient_id, "malignancy"]


def test_the_table_holds_every_strategy_group_and_interval(done: Path) -> None:
    table = pd.read_csv(done / "results.csv").set_index(["group", "strategy"])
    predictions = pd.read_parquet(done / "predictions.parquet")
    groups = ["internal test", "external E1", "external E2", "pooled external"]
    assert list(dict.fromkeys(table.index.get_level_values("group"))) == groups
    assert set(table.index.get_level_values("strategy")) == {MEAN, NEAREST, RANDOM, REPORTS}
    external = predictions[predictions["role"] == "external"]
    row = table.loc[("pooled external", MEAN)]
    assert row["auroc"] == pytest.approx(roc_auc_score(external["target"], external["score_malignant"]))
    assert row["low"] <= row["auroc"] <= row["high"]
    assert (row["n"], row["positives"]) == (len(external), external["target"].sum())
    assert row["counts"] == f"benign {(external['target'] == 0).sum()}, malignant {external['target'].sum()}"
    assert table.loc[("pooled external", RANDOM), "interval"] == SPREAD
    assert table.loc[("pooled external", NEAREST), "interval"] in ("bootstrap", "bootstrap, Newcombe", "Newcombe")
    tfidf = roc_auc_score(external["target"], external["tfidf_malignant"])
    assert table.loc[("pooled external", REPORTS), "auroc"] == pytest.approx(tfidf)
    written = {"mlflow.json", "predictions.parquet", "results.csv", "results-data.parquet", "roc.png"}
    assert {path.name for path in done.iterdir()} == written


def test_mlflow_knows_the_figures_and_no_path(done: Path, cohort_root: Path) -> None:
    runs = done.parents[3]
    client = MlflowClient(tracking_uri(runs))
    experiment = client.get_experiment_by_name("renal/tiny/malignancy").experiment_id
    (run,) = client.search_runs([experiment], "attributes.run_name = 'aligned-zeroshot-s42'")
    table = pd.read_csv(done / "results.csv").set_index(["group", "strategy"])
    expected = table.loc[("pooled external", MEAN), "auroc"]
    assert run.data.metrics["auroc/mean_prompt/pooled_external"] == pytest.approx(expected)
    assert run.data.tags["mode"] == "zeroshot"
    assert "trained on labels of the pretraining centres" in run.data.tags["mlflow.note.content"]
    assert str(cohort_root.parent) not in str(run.to_dictionary())


def test_three_classes_on_the_index_kidney(cohort_root: Path, folder: Path) -> None:
    arguments = {"data": cohort_root, "runs": folder / "runs", "draws": 20, "model": str(export(folder / "model"))}
    assert zeroshot("renal_r", **arguments, extra=extra_flags(folder)) == 0
    made = folder / "runs/renal/tiny/renal_r/aligned-zeroshot-s42"
    table = pd.read_csv(made / "results.csv").set_index(["group", "strategy"])
    predictions = pd.read_parquet(made / "predictions.parquet")
    external = predictions[predictions["role"] == "external"]
    score = external[[name for name in external if name.startswith("score_")]].to_numpy()
    assert score.shape[1] == 3
    np.testing.assert_allclose(score.sum(axis=1), 1.0)
    expected = roc_auc_score(external["target"], score, multi_class="ovr")
    assert table.loc[("pooled external", MEAN), "auroc"] == pytest.approx(expected)


@pytest.mark.slow
def test_folds_are_pooled(tiny_folds_root: Path, folder: Path) -> None:
    arguments = {"data": tiny_folds_root, "runs": folder / "runs", "draws": 20, "model": str(export(folder / "model"))}
    assert zeroshot(**arguments, pretrained="s7", extra=extra_flags(folder)) == 0
    made = folder / "runs/renal/tiny/malignancy/aligned-zeroshot-s7"
    predictions = pd.read_parquet(made / "predictions.parquet")
    assert sorted(predictions["patient_id"]) == sorted(Cohort.load(tiny_folds_root).patients()["patient_id"])
    assert len(set(predictions["fold"])) > 1
    table = pd.read_csv(made / "results.csv")
    assert set(table["group"]) == {"out-of-fold"}
    assert REPORTS not in set(table["strategy"])  # this cohort has no reports


def test_bad_requests_are_refused_before_anything_is_embedded(cohort_root: Path, tmp_path: Path) -> None:
    arguments = {"data": cohort_root, "runs": tmp_path / "runs", "extra": extra_flags(tmp_path)}
    with pytest.raises(DataError, match="TASK=malignant is not known"):
        zeroshot("malignant", **arguments)
    with pytest.raises(DataError, match="has no prompts"):
        zeroshot("rfs", **arguments)
    with pytest.raises(DataError, match=r"ENCODER=aligned has no weights .* STAGES=alignment` first"):
        zeroshot(**arguments)
    model = str(export(tmp_path / "model"))
    with pytest.raises(DataError, match="has no text encoder with pretraining seed 42"):
        zeroshot(**arguments, model=model)
    fill_cache(tmp_path / "runs", "tiny", load_prompts("malignancy").prompts()[0])
    window = [*extra_flags(tmp_path), "--contract.window_hu=[-100,200]"]
    with pytest.raises(ModelError, match=r"window_hu: \[-200.0, 300.0\] in the model, \[-100.0, 200.0\] in the data"):
        zeroshot(data=cohort_root, runs=tmp_path / "runs", model=model, extra=window)
    grid = [*extra_flags(tmp_path), "--contract.grid=[8,12,14]"]
    with pytest.raises(DataError, match="holds the finished volume sets"):
        zeroshot(data=cohort_root, runs=tmp_path / "runs", model=model, extra=grid)


def test_texts_are_embedded_once_and_long_prompts_and_other_encoders_are_refused(tmp_path: Path) -> None:
    space = tiny_space(tmp_path)
    first = space.texts(["a solid mass", "no mass", "a solid mass"])
    np.testing.assert_array_equal(first[0], first[2])
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1.0, rtol=1e-5)
    again = tiny_space(tmp_path)
    again.load_text = lambda: pytest.fail("the cache holds all of them")  # type: ignore[assignment]
    np.testing.assert_allclose(again.texts(["no mass"]), first[[1]], atol=1e-6)
    with pytest.raises(DataError, match="1 prompts reach the text encoder's 64 tokens"):
        space.texts(["word " * 64], whole=True)
    other = tiny_space(tmp_path / "other")
    other.cache.fingerprint = "another"
    with pytest.raises(ModelError, match=r"fingerprint hashed-.*; the aligned model was trained with another"):
        other.texts(["a mass"])


def test_a_saved_model_is_found_by_name(cohort_root: Path, tmp_path: Path) -> None:
    model = export(tmp_path / "model")
    space = load_space(Cohort.load(cohort_root), SpaceOptions(tmp_path / "runs", model=str(model)))
    image = torch.rand(2, 1, *CROP)
    with torch.no_grad():
        np.testing.assert_allclose(space.images(image), aligned_model().embed_image(image).numpy(), atol=1e-6)
