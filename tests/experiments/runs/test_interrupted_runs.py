"""Runs that end early: damaged checkpoints, a loss that is no number, and two processes in one folder."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from mlflow.tracking import MlflowClient

from datamodules.errors import DataError
from experiments.cli import main
from experiments.runs import locks
from experiments.runs.tracking import tracking_uri

TINY = {
    "contract": {"grid": [8, 12, 12]},
    "augmentation": {"crop": [8, 10, 10]},
    "encoder": {"width": 4, "depth": 10, "stem_pool": True},
    "trainer": {"max_epochs": 3, "accelerator": "cpu"},
    "data": {"init_args": {"samples_per_epoch": 8, "batch_size": 4}},
}
FOLDER = Path("renal/tiny/malignancy/scratch-finetune-f1-s42")


@pytest.fixture
def command(tiny_root: Path, tmp_path: Path) -> list[str]:
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(TINY))
    flags = json.dumps([f"--config={config}"])
    return ["finetune", "--task=malignancy", f"--data={tiny_root}", f"--extra={flags}"]


def _interrupt(monkeypatch: pytest.MonkeyPatch, command: list[str], epoch: int) -> None:
    def stop(self: object, trainer: Any, *_: object) -> None:
        if trainer.current_epoch == epoch:
            raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr("callbacks.progress.Throughput.on_train_epoch_start", stop)
        with pytest.raises(RuntimeError, match="power cut"):
            main(command)


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_an_epoch_and_not_the_run(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, f"--runs={tmp_path / 'whole'}"]) == 0
    for name, damaged, said in (
        ("last", ["last.ckpt"], "goes on from last.previous.ckpt, after epoch 1."),
        ("both", ["last.ckpt", "last.previous.ckpt"], "goes on from best.ckpt, after epoch"),
        ("all", ["last.ckpt", "last.previous.ckpt", "best.ckpt"], "No older checkpoint is whole; the run begins anew."),
    ):
        again = [*command, f"--runs={tmp_path / name}"]
        _interrupt(monkeypatch, again, 2)
        checkpoints = tmp_path / name / FOLDER / "checkpoints"
        for damage in damaged:
            content = (checkpoints / damage).read_bytes()
            (checkpoints / damage).write_bytes(content[: len(content) // 2])
        capsys.readouterr()
        assert main(again) == 0
        shown = capsys.readouterr().out
        assert "WARNING: Checkpoint last.ckpt could not be read safely" in shown
        assert said in shown
        pd.testing.assert_frame_equal(
            pd.read_parquet(tmp_path / "whole" / FOLDER / "predictions.parquet"),
            pd.read_parquet(tmp_path / name / FOLDER / "predictions.parquet"),
        )
        assert sorted(path.name for path in checkpoints.iterdir()) == ["best.ckpt", "last.ckpt"]


@pytest.mark.slow
def test_a_checkpoint_that_was_damaged_after_the_last_epoch_is_written_again(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The best epoch was the last, so that nothing is left to train; yet the last weights are those that are tested."""
    command, folder = [*command, f"--runs={tmp_path}"], tmp_path / FOLDER
    assert main(command) == 0
    expected = pd.read_parquet(folder / "predictions.parquet")
    last, best = (folder / "checkpoints" / f"{name}.ckpt" for name in ("last", "best"))
    weights = torch.load(last, weights_only=True)
    content = last.read_bytes()
    best.write_bytes(content)
    for damaged in (b"", content[: len(content) // 2], pickle.dumps([1]), b"weights"):
        for left in ("DONE", "predictions.parquet", "results.csv"):
            (folder / left).unlink()
        last.write_bytes(damaged)
        assert main(command) == 0
        assert "The run goes on from best.ckpt, after epoch 3." in capsys.readouterr().out
        pd.testing.assert_frame_equal(pd.read_parquet(folder / "predictions.parquet"), expected)
        again = torch.load(last, weights_only=True)["state_dict"]
        assert again.keys() == weights["state_dict"].keys()
        assert all(torch.equal(again[name], value) for name, value in weights["state_dict"].items())


@pytest.mark.slow
def test_a_checkpoint_of_other_weights_is_refused_in_a_sentence(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, folder = [*command, f"--runs={tmp_path}"], tmp_path / FOLDER
    assert main(command) == 0
    (folder / "DONE").unlink()
    last = folder / "checkpoints" / "last.ckpt"
    stored = torch.load(last, weights_only=True)
    torch.save(stored | {"state_dict": {"encoder.x": torch.zeros(3)}}, last)
    capsys.readouterr()
    assert main(command) == 2
    assert "weights do not fit Classification" in capsys.readouterr().err
    torch.save({name: value for name, value in stored.items() if name != "loops"}, last)
    assert main(command) == 0
    assert "last.ckpt holds no loops; no run goes on from it. The run goes on from best.ckpt" in capsys.readouterr().out


@pytest.mark.slow
def test_a_diverged_run_fails_and_makes_room_for_another_rate(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, folder = [*command, f"--runs={tmp_path}"], tmp_path / FOLDER
    broken = [
        part.replace("]", ', "--optimizer.lr=1e30", "--optimizer.warmup=0.0"]') if part.startswith("--extra") else part
        for part in command
    ]
    for _ in range(2):  # with the same rate it is tried again, and fails again
        assert main(broken) == 1
        said = capsys.readouterr().err
        assert said.startswith("error: Training diverged at step ")
        assert re.search(r" at learning rate [\d.]+e\+(29|30)\. Patients of the step: I", said)
        assert "diverged" in json.loads((folder / "FAILED").read_text())["reason"]
    client = MlflowClient(tracking_uri(tmp_path))
    experiment = client.get_experiment_by_name("renal/tiny/malignancy")
    runs = client.search_runs([experiment.experiment_id], "attributes.run_name = 'scratch-finetune-f1-s42'")
    assert [run.info.status for run in runs] == ["FAILED"]
    assert main(command) == 0
    assert "what it left is now in scratch-finetune-f1-s42.failed-1" in capsys.readouterr().out
    assert (folder / "DONE").is_file()
    assert not (folder / "FAILED").exists()
    aside = folder.with_name(f"{folder.name}.failed-1")
    assert {"FAILED", "config.yaml", "run.json", "mlflow.json"} <= {path.name for path in aside.iterdir()}
    runs = client.search_runs([experiment.experiment_id], "attributes.run_name = 'scratch-finetune-f1-s42'")
    assert sorted(run.info.status for run in runs) == ["FAILED", "FINISHED"]


HOLD = """
import sys, time
from pathlib import Path
from experiments.runs.locks import training
with training(Path(sys.argv[1])):
    print("holds", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_one_process_trains_in_a_folder_and_a_dead_one_leaves_it(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, folder = [*command, f"--runs={tmp_path}", "--mode=probe"], tmp_path / FOLDER
    folder = folder.with_name("scratch-probe-f1-s42")
    folder.mkdir(parents=True)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "holds\n"
        assert main(command) == 2
        said = capsys.readouterr().err
        assert f"is being trained by another process (pid {other.pid}, host " in said
        assert ", since 20" in said
        assert not (folder / "config.yaml").exists()
    finally:
        other.kill()
        other.wait()
    assert main(command) == 0
    assert (folder / "DONE").is_file()
    assert not any((folder / name).exists() for name in (".lock", ".holder.json"))


@pytest.mark.slow
def test_a_silent_process_of_another_machine_is_outwaited_and_a_live_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LEASE_S", 2.0)
    monkeypatch.setattr(locks, "_BEAT_S", 0.2)
    monkeypatch.setattr(locks, "_LOOK_S", 0.5)
    shorter = "from experiments.runs import locks\nlocks.LEASE_S, locks._BEAT_S = 2.0, 0.2\nwith training"
    script = HOLD.replace("with training", shorter)
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "holds\n"
        marker = (tmp_path / ".lock").read_text()
        holder = json.loads((tmp_path / ".holder.json").read_text())
        (tmp_path / ".holder.json").write_text(json.dumps({**holder, "host": "node17"}))
        with pytest.raises(DataError, match="host node17"), locks.training(tmp_path):
            pass
    finally:
        other.kill()
        other.wait()
    name = next(line for line in marker.splitlines() if line.startswith("host"))
    (tmp_path / ".lock").write_text(marker.replace(name, f"{name.split('=')[0]}=node17"))
    with locks.training(tmp_path):
        assert json.loads((tmp_path / ".holder.json").read_text())["pid"] == os.getpid()
