"""Two CPU processes: equal steps, everyone tested once, the same numbers as one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

ROOT = Path(__file__).parents[2]


def _run(root: Path, runs: Path, config: Path, ranks: int, batch_size: int) -> Path:
    extra = [
        f"--config={config}",
        "--trainer.strategy=ddp" if ranks > 1 else "--trainer.strategy=auto",
        f"--data.init_args.batch_size={batch_size}",
    ]
    command = [
        sys.executable, "-m", "experiments", "finetune", "--task=malignancy", f"--data={root}", f"--runs={runs}",
        f"--devices={ranks}", "--extra=" + json.dumps(extra),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("pooled external") == 1
    return runs / "renal/tiny/malignancy/scratch-finetune-f1-s42"


@pytest.mark.slow
def test_two_ranks_train_and_test_as_one(tiny_root: Path, tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "contract": {"grid": [8, 12, 12]},
                "augmentation": {"crop": [8, 10, 10]},
                "encoder": {"width": 4, "depth": 10},
                "model": {"init_args": {"dropout": 0.0, "balance": "none"}},
                "data": {"init_args": {"samples_per_epoch": None}},
                "trainer": {
                    "max_epochs": 2, "accelerator": "cpu", "gradient_clip_val": None, "sync_batchnorm": False,
                },
            }
        )
    )  # fmt: skip
    one = _run(tiny_root, tmp_path / "one", config, ranks=1, batch_size=14)
    two = _run(tiny_root, tmp_path / "two", config, ranks=2, batch_size=7)
    first, second = (pd.read_parquet(folder / "predictions.parquet") for folder in (one, two))
    assert first["patient_id"].tolist() == second["patient_id"].tolist()
    assert first["patient_id"].is_unique
    steps = [torch.load(f / "checkpoints/last.ckpt", weights_only=True)["global_step"] for f in (one, two)]
    assert steps == [2, 2]
