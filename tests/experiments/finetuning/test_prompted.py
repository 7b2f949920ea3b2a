"""A model that starts from the prompts: without labels it is them, with few it stays near, with many it learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from scipy.optimize import minimize
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from datamodules.cohort.trained_on import TrainedOn
from datamodules.errors import DataError
from datamodules.reports.schema import load_schema
from experiments.aligned.stated_facts import stated_values
from experiments.aligned.zero_shot.prompt_sets import load_prompts
from experiments.cli import main
from experiments.finetuning.attribute_space import AttributeSpace
from experiments.finetuning.finetune import finetune
from experiments.finetuning.point import Point
from experiments.finetuning.prompted import RISK_SPREAD, Prompted, fit_prompted, fit_prompted_risk
from lightning_modules.core.optimization import OptimizerConfig
from lightning_modules.export.attribute_heads import AttributeHeads, save_heads
from lightning_modules.export.image import load_exported, save_encoder
from lightning_modules.export.task_head import load_task_head
from lightning_modules.networks.image.encoders import EncoderConfig
from lightning_modules.pretrain.attributes import AttributePretraining
from tests.tiny import CONTRACT, TINY

SIZES = {"depth": 10, "width": 8, "deep_width": 32, "stem_size": 5, "stem_pool": False}
SIZES |= {"region_width": 4, "token_dim": 4, "region_dim": 4}
CLASSES = {name: list(values) for name, values in load_schema().classes.items()}


def _heads(features: int = 6) -> AttributeHeads:
    torch.manual_seed(3)
    return AttributeHeads(CLASSES, features).eval()


def test_readings_are_the_heads_logits_less_their_mean() -> None:
    heads, feature = _heads(), torch.randn(9, 6)
    readings = AttributeSpace.of_heads(heads).read(feature.numpy())
    parts = heads(feature).detach().double().split([len(values) for values in CLASSES.values()], dim=1)
    expected = torch.cat([part - part.mean(dim=1, keepdim=True) for part in parts], dim=1)
    np.testing.assert_allclose(readings, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("task", ["malignancy", "renal_e"])
def test_prompt_weights_are_the_slope_of_the_prompts_log_likelihood(task: str) -> None:
    heads = _heads()
    space, prompts = AttributeSpace.of_heads(heads), load_prompts(task)
    stated = stated_values(prompts, CLASSES)

    def facts(feature: np.ndarray) -> np.ndarray:
        scores = heads.scores(torch.from_numpy(feature[None]).float())
        logs = {name: np.log(values[0].double().numpy()) for name, values in scores.items()}
        of = [[sum(logs[n][CLASSES[n].index(v)] for n, v in own) for own in found if own] for found in stated]
        return np.array([np.mean(values) for values in of])

    feature, step = np.random.default_rng(1).normal(size=6), np.random.default_rng(2).normal(size=6) * 0.02
    weights = space.prompt_weights(prompts, space.read(feature[None]))
    change = weights @ (space.read((feature + step)[None])[0] - space.read(feature[None])[0])
    np.testing.assert_allclose(change, facts(feature + step) - facts(feature), atol=2e-3)


def _made(patients: int, seed: int, noise: float = 1.0) -> tuple[SimpleNamespace, AttributeSpace, np.ndarray]:
    """Patients whose malignancy follows the prompts and a feature that no prompt speaks of."""
    rng = np.random.default_rng(seed)
    space, feature = AttributeSpace.of_heads(_heads(12)), rng.normal(size=(patients, 12))
    weights = space.prompt_weights(load_prompts("malignancy"), space.read(feature))
    score = (space.read(feature) @ (weights[1] - weights[0])) / 3
    target = (score / score.std() + feature[:, 0] + noise * rng.logistic(size=patients) > 0).astype(np.int64)
    label = SimpleNamespace(name="malignancy", classes=[0, 1])
    counts = np.bincount(target, minlength=2).tolist()
    return SimpleNamespace(label=label, seed=1, class_counts=counts, target=target), space, feature


def _fit(module: SimpleNamespace, space: AttributeSpace, feature: np.ndarray, train: int, val: int) -> Prompted:
    own, held = slice(0, train), slice(train, train + val)
    names = [f"P{number}" for number in range(train + val)]
    return fit_prompted(
        module,  # type: ignore[arg-type]
        space,
        (feature[own], feature[held]),
        (module.target[own], module.target[held]),
        names,
    )


@pytest.mark.slow
def test_few_labels_leave_it_near_the_prompts_and_many_take_it_past_them() -> None:
    few, zero, many = [], [], []
    for seed in range(5):
        module, space, feature = _made(900, seed)
        found = [_fit(module, space, feature, train, 60) for train in (0, 12, 400)]
        held = slice(500, None)
        value = [roc_auc_score(module.target[held], model.predict_proba(feature[held])[:, 1]) for model in found]
        for values, one in zip((zero, few, many), value, strict=True):
            values.append(one)
        assert np.isnan(found[0].trust)
    assert np.mean(few) >= np.mean(zero) - 0.01
    assert np.mean(many) >= np.mean(zero) + 0.05


def test_a_prompted_risk_is_near_the_prompts_with_few_events_and_the_ridge_that_another_optimiser_finds() -> None:
    rng = np.random.default_rng(4)
    space, feature = AttributeSpace.of_heads(_heads(12)), rng.normal(size=(300, 12))
    prompts = load_prompts("aggressiveness")
    outcome = np.empty(300, dtype=[("event", bool), ("months", np.float64)])
    outcome["event"], outcome["months"] = rng.random(300) < 0.5, rng.exponential(20, 300)
    module = SimpleNamespace(label=SimpleNamespace(name="rfs"))
    train = feature[:200]
    model = fit_prompted_risk(module, space, (train, feature[200:]), outcome[:200])  # type: ignore[arg-type]
    few = fit_prompted_risk(module, space, (train[:15], feature[15:]), outcome[:15])  # type: ignore[arg-type]
    start = space.prompt_weights(prompts, space.read(feature))
    slope = space.matrix @ (start[1] - start[0])
    assert np.corrcoef(few.predict(feature), feature @ slope)[0, 1] > 0.85
    readings = space.read(train)
    scale, mean = readings.std(axis=0), readings.mean(axis=0)
    centre = (start[1] - start[0]) * scale
    centre = RISK_SPREAD * centre / ((readings - mean) / scale @ centre).std()

    order = np.argsort(-outcome["months"][:200])
    event = torch.from_numpy(outcome["event"][:200][order].copy())
    design = torch.from_numpy(((readings - mean) / scale)[order])

    def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.from_numpy(point).requires_grad_()
        risk = design @ at
        penalty = readings.shape[1] / RISK_SPREAD**2 / 2 * (at - torch.from_numpy(centre)).square().sum()
        value = (risk.logcumsumexp(dim=0) - risk)[event].sum() + penalty
        value.backward()
        assert at.grad is not None
        return float(value), at.grad.numpy()

    best = minimize(loss, centre, method="L-BFGS-B", jac=True, options={"maxiter": 2000, "ftol": 1e-16, "gtol": 1e-9})
    expected = (readings - mean) / scale @ best.x
    np.testing.assert_allclose(model.predict(train) - model.predict(train).mean(), expected, atol=1e-5)


@pytest.fixture
def pretrained_runs(tmp_path: Path) -> Path:
    """Runs with an encoder of random weights and its heads, as stage 1 of the tiny cohort might have exported."""
    torch.manual_seed(1)
    config = EncoderConfig(network="regions", **SIZES)  # type: ignore[arg-type]
    counts = {name: dict.fromkeys(values, 1) for name, values in CLASSES.items()}
    stage1 = AttributePretraining(config, counts, CONTRACT.to_dict(), OptimizerConfig()).eval()
    exported = tmp_path / "runs/renal/tiny/pretrain/image-s42/encoder"
    save_encoder(exported, stage1.encoder, config, CONTRACT.to_dict(), "card", TrainedOn.nobody().write(exported))
    save_heads(exported, AttributeHeads.of_state(stage1.state_dict(), counts, ()))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**TINY, "encoder": SIZES}))
    return tmp_path / "runs"


def _point(root: Path, runs: Path, **settings: object) -> Point:
    flags = (f"--config={runs.parent / 'tiny.yaml'}",)
    named = {"encoder": "stage1_prompts", "mode": "probe", **settings}
    return Point("malignancy", data=root, runs=runs, extra=flags, **named)  # type: ignore[arg-type]


@pytest.mark.slow
def test_without_labels_it_is_the_prompts_and_with_labels_its_head_says_what_was_tested(
    tiny_root: Path, pretrained_runs: Path
) -> None:
    tables = {share: finetune(_point(tiny_root, pretrained_runs, fraction=share), report=False) for share in (0.0, 1.0)}
    folder = pretrained_runs / "renal/tiny"
    (cached,) = (folder / "features").rglob("features.npz")
    _, exported = load_exported(folder / "pretrain/image-s42/encoder")
    predicted = {
        share: pd.read_parquet(folder / f"malignancy/stage1_prompts-probe-f{share:g}-s42/predictions.parquet")
        for share in tables
    }
    assert set(predicted[0.0]["part"]) == {"val", "test"}
    assert predicted[0.0]["patient_id"].tolist() == predicted[1.0]["patient_id"].tolist()
    assert not np.allclose(predicted[0.0]["score_malignant"], predicted[1.0]["score_malignant"])
    with np.load(cached) as content:
        features = content["feature"]
    head = load_task_head(folder / "malignancy/stage1_prompts-probe-f1-s42/head", exported.sha256)
    known = head.scores(torch.from_numpy(features))[:, 1].numpy()
    # Every patient has one visit, whose phases are read together: its feature is one of those that were kept.
    distance = np.abs(known[:, None] - predicted[1.0]["score_malignant"].to_numpy())
    assert distance.min(axis=0).max() < 1e-9
    patient = distance.argmin(axis=0)
    space = AttributeSpace.load(folder / "pretrain/image-s42/encoder")
    readings = space.read(features)[patient]
    seen = readings[(predicted[0.0]["part"] == "val").to_numpy(dtype=bool)]
    weights = space.prompt_weights(load_prompts("malignancy").ordered([0, 1]), seen)
    expected = softmax(readings @ weights.T, axis=1)[:, 1]
    np.testing.assert_allclose(predicted[0.0]["score_malignant"], expected, atol=1e-9)
    assert not (folder / "malignancy/stage1_prompts-probe-f0-s42/head").exists()


@pytest.mark.slow
def test_no_labels_without_prompts_and_no_prompts_without_a_task_are_refused(
    tiny_root: Path, pretrained_runs: Path
) -> None:
    with pytest.raises(DataError, match="FRACTION=0 was asked for with TASK=malignancy and ENCODER=stage1, which need"):
        finetune(_point(tiny_root, pretrained_runs, encoder="stage1", fraction=0.0))
    with pytest.raises(DataError, match="FRACTION=0 was asked for with TASK=os"):
        finetune(replace(_point(tiny_root, pretrained_runs, fraction=0.0), task="os"))
    assert "c_index" in finetune(replace(_point(tiny_root, pretrained_runs), task="os"), report=False)
    (pretrained_runs / "renal/tiny/pretrain/image-s42/encoder/attribute_heads.safetensors").unlink()
    (pretrained_runs / "renal/tiny/pretrain/image-s42/encoder/attribute_heads.json").unlink()
    with pytest.raises(DataError, match="its export has no heads"):
        finetune(_point(tiny_root, pretrained_runs))


@pytest.mark.slow
def test_no_label_is_the_first_point_of_its_curve(tiny_root: Path, pretrained_runs: Path) -> None:
    flags = json.dumps([f"--config={pretrained_runs.parent / 'tiny.yaml'}"])
    command = ["curve", "--task=malignancy", "--mode=probe", f"--data={tiny_root}", f"--runs={pretrained_runs}"]
    command += ['--encoders=["stage1", "stage1_prompts"]', "--fractions=[0, 1]", "--seeds=[42]", f"--extra={flags}"]
    assert main(command) == 0
    table = pd.read_csv(pretrained_runs / "renal/tiny/malignancy/curve-probe.csv")
    pooled = table[table["group"] == "pooled external"].set_index(["encoder", "fraction"])
    assert set(pooled.index) == {("stage1_prompts", 0.0), ("stage1_prompts", 1.0), ("stage1", 1.0)}
    assert pooled.loc[("stage1_prompts", 0.0), "labels"] == 0
    assert main([*command[:-4], '--encoders=["stage1"]', "--fractions=[0, 1]", "--seeds=[42]", f"--extra={flags}"]) == 0
    skipped = pd.read_csv(pretrained_runs / "renal/tiny/malignancy/curve-probe.csv")
    assert skipped["note"].dropna().str.contains("starts from prompts of classes").any()
