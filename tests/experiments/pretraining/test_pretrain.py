"""Attribute pretraining end to end: reports to attributes to encoder to fine-tuning and comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.table_checks import conform
from datamodules.cohort.tables import TABLES
from datamodules.files import read_json, write_parquet
from experiments.cli import main
from experiments.pretraining.evaluation.attribute_results import MEAN, attribute_table
from experiments.runs.tracking import NOTE, store_client
from lightning_modules.export.image import load_exported

TINY: dict[str, Any] = {
    "contract": {"grid": [8, 12, 12]},
    "augmentation": {"crop": [8, 10, 10]},
    "encoder": {"width": 4, "depth": 10, "stem_pool": True},
    "optimizer": {"lr": 0.003},
    "trainer": {"max_epochs": 2, "accelerator": "cpu"},
    "data": {"init_args": {"samples_per_epoch": 16}},
}
STAGE = "runs/renal/tiny/pretrain/image-s42"


def write_reports(root: Path) -> None:
    """A report per study that says on which side the lesion is, as the tiny cohort draws it."""
    kidneys = Cohort.load(root)["kidneys"]
    keys = kidneys[["patient_id", "study_id"]].drop_duplicates().to_dict("records")
    text = "Left kidney: There is a solid mass of 5.1 cm in the upper pole. Right kidney: No focal lesion."
    rows = [
        key | {"report_id": f"{key['study_id']}-R", "side": None, "text": text, "source": "generated"} for key in keys
    ]
    write_parquet(root / "reports.parquet", conform(pd.DataFrame(rows), TABLES["reports"]))


@pytest.fixture
def extra(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return "--extra=" + json.dumps([f"--config={path}"])


@pytest.mark.slow
def test_from_reports_to_a_compared_encoder(
    tiny_copy: Path, tmp_path: Path, extra: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_reports(tiny_copy)
    where = [f"--data={tiny_copy}", f"--runs={tmp_path / 'runs'}"]
    assert main(["pretrain", "--stages=[image]", *where, extra]) == 0
    shown = capsys.readouterr().out
    assert "no attribute table yet" in shown
    assert "Mean AUC of" in shown
    folder = tmp_path / STAGE
    assert {"DONE", "attributes.csv", "attributes.png", "predictions.parquet"} <= {p.name for p in folder.iterdir()}
    # Nobody of the pretraining centres is tested, everybody else is, with both kidneys.
    predictions = pd.read_parquet(folder / "predictions.parquet")
    people = Cohort.load(tiny_copy).patients()
    assert set(predictions["patient_id"]) == set(people.loc[people["role"] != "pretrain", "patient_id"])
    assert len(predictions) == 2 * predictions["patient_id"].nunique()
    table = pd.read_csv(folder / "attributes.csv").set_index(["group", "attribute"])
    assert table.loc[("all held-out centres", "lesion_present"), "kidneys"] == len(predictions)
    assert {"internal centres", "external centres"} <= set(table.index.get_level_values("group"))

    encoder, exported = load_exported(folder / "encoder")
    # No attribute is stated of enough validation kidneys to be scored, so that no epoch is the best one.
    checkpoint = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, checkpoint["state_dict"][f"encoder.{name}"])
    assert str(tmp_path) not in json.dumps(exported.contract) + (folder / "encoder/README.md").read_text()

    client = store_client(tmp_path / "runs")
    (model,) = client.search_logged_models([client.get_experiment_by_name("renal/tiny/pretrain").experiment_id])
    assert (model.name, str(model.status)) == ("encoder", "READY")
    assert model.tags[NOTE] == (folder / "encoder/README.md").read_text()

    before = (folder / "checkpoints/last.ckpt").stat().st_mtime_ns
    assert main(["pretrain", "--stages=[image]", *where, extra]) == 0
    assert "finished already" in capsys.readouterr().out
    assert (folder / "checkpoints/last.ckpt").stat().st_mtime_ns == before

    for name in ("scratch", "stage1"):
        assert main(["probe", f"--encoder={name}", *where, extra]) == 0
        assert "Linear probe" in capsys.readouterr().out
        probed = pd.read_csv(tmp_path / f"runs/renal/tiny/probe/attributes-{name}-s42.csv")
        assert "all held-out centres" in set(probed["group"])
        assert main(["finetune", "--task=malignancy", f"--encoder={name}", *where, extra]) == 0
    points = tmp_path / "runs/renal/tiny/malignancy"
    config, scratch = (
        yaml.safe_load((points / f"{name}-finetune-f1-s42/config.yaml").read_text()) for name in ("stage1", "scratch")
    )
    assert config["model"]["init_args"]["pretrained_sha256"] == read_json(folder / "DONE")["encoder_sha256"]
    # What was pretrained moves slower than its new head; the same head alone learns at the same rate.
    assert config["optimizer"]["backbone_lr"] < config["optimizer"]["lr"] == scratch["optimizer"]["lr"]
    assert scratch["optimizer"]["backbone_lr"] is None
    capsys.readouterr()
    assert main(["compare", *where]) == 0
    shown = capsys.readouterr().out
    assert "stage1" in shown
    assert "Phantom results" in shown
    compared = pd.read_csv(tmp_path / "runs/renal/tiny/malignancy/comparison.csv").set_index(["group", "encoder"])
    gain = compared.loc[("pooled external", "stage1")]
    base = compared.loc[("pooled external", "scratch")]
    assert gain["difference"] == pytest.approx(gain["auroc"] - base["auroc"])
    assert np.isnan(base["difference"])
    assert gain["difference_low"] <= gain["difference"] <= gain["difference_high"]


@pytest.mark.slow
def test_what_is_missing_is_said(
    tiny_root: Path, tmp_path: Path, extra: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = [f"--data={tiny_root}", f"--runs={tmp_path / 'runs'}"]
    assert main(["finetune", "--task=malignancy", "--encoder=stage1", *where, extra]) == 2
    assert "run `make pretrain STAGES=image` first" in capsys.readouterr().err
    assert main(["pretrain", "--stages=[image]", *where, extra]) == 2
    assert "reports" in capsys.readouterr().err
    assert main(["pretrain", '--stages=["imge"]', *where, extra]) == 2
    assert "Did you mean image?" in capsys.readouterr().err
    assert main(["compare", *where]) == 2
    assert "No finished run" in capsys.readouterr().err


def test_a_flag_that_a_later_stage_does_not_know_is_refused_before_the_first_trains(
    tiny_root: Path, tmp_path: Path, extra: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = json.dumps([*json.loads(extra.removeprefix("--extra=")), "--model.init_args.micro_batch=8"])
    where = [f"--data={tiny_root}", f"--runs={tmp_path / 'runs'}", f"--extra={flags}"]
    assert main(["pretrain", "--stages=[alignment,image]", *where]) == 2
    shown = capsys.readouterr()
    assert "Stage image does not take the flags of --extra" in shown.err
    assert "micro_batch" in shown.err
    assert "apart from alignment" in shown.err
    assert "Stage 1" not in shown.out
    assert main(["pretrain", "--stages=[image]", "--nodes=2", *where[:2]]) == 2
    assert "NODES=2 was asked for, and neither torchrun nor srun" in capsys.readouterr().err


@pytest.mark.slow
def test_folds_pretrain_one_encoder_each_on_reports_of_their_masks(
    tiny_folds_root: Path, tmp_path: Path, extra: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    root = Path(shutil.copytree(tiny_folds_root, tmp_path / "tiny_folds"))
    assert main(["reports", f"--data={root}"]) == 0
    assert "marked generated" in capsys.readouterr().out
    cohort = Cohort.load(root)
    assert set(cohort["reports"]["source"]) == {"generated"}
    assert main(["reports", f"--data={root}"]) == 2
    assert "are not overwritten" in capsys.readouterr().err
    where = [f"--data={root}", f"--runs={tmp_path / 'runs'}"]
    one_epoch = json.dumps([*json.loads(extra.removeprefix("--extra=")), "--trainer.max_epochs=1"])
    assert main(["pretrain", "--stages=[image]", *where, f"--extra={one_epoch}"]) == 0
    folds = sorted(int(value) for value in cohort["splits"]["fold"].unique())
    for fold in folds:
        folder = tmp_path / STAGE / f"fold{fold}"
        tested = pd.read_parquet(folder / "predictions.parquet")["patient_id"]
        splits = cohort["splits"].set_index("patient_id")["fold"]
        assert set(splits[tested.unique()]) == {fold}
        assert (folder / "encoder/model.safetensors").is_file()


def test_a_planted_attribute_scores_and_the_mean_is_the_mean() -> None:
    rng = np.random.default_rng(0)
    rows = 80
    target = rng.integers(0, 2, rows)
    frame = pd.DataFrame(
        {
            "patient_id": [f"p{number // 2}" for number in range(rows)],
            "study_id": "s",
            "side": ["left", "right"] * (rows // 2),
            "center": "E1",
            "role": "external",
            "part": "test",
            "target:a": target,
            "score:a:no": 1.0 - target,
            "score:a:yes": target.astype(float),
            "target:b": rng.integers(0, 3, rows),
            **{f"score:b:{name}": rng.random(rows) for name in "xyz"},
            "target:c": -100,
            "score:c:no": 0.5,
            "score:c:yes": 0.5,
        }
    )
    table = attribute_table(frame, replicates=200).set_index(["group", "attribute"])
    group = "all held-out centres"
    assert table.loc[(group, "a"), ["auroc", "high", "interval", "kappa"]].tolist() == [1.0, 1.0, "Newcombe", 1.0]
    assert 0.9 < table.loc[(group, "a"), "low"] < 0.95
    assert 0.3 < table.loc[(group, "b"), "auroc"] < 0.7
    assert np.isnan(table.loc[(group, "c"), "auroc"])
    assert table.loc[(group, "c"), "kidneys"] == 0
    mean = table.loc[(group, MEAN)]
    assert mean["auroc"] == pytest.approx((1.0 + table.loc[(group, "b"), "auroc"]) / 2)
    assert mean["low"] <= mean["auroc"] <= mean["high"]
    assert mean["patients"] == 40
