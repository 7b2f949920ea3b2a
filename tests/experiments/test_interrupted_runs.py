"""A run whose last checkpoint is damaged goes on from the newest whole one, and says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from experiments.cli import main

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
