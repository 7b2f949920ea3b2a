"""Two CPU processes, of one machine or of two: equal steps, everyone tested once, the same numbers as one process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

ROOT = Path(__file__).parents[3]


def _start(root: Path, runs: Path, config: Path, batch_size: int, how: list[str], launch: list[str]) -> str:
    """Run fine-tuning by one or more commands side by side; what the first one printed."""
    extra = [f"--config={config}", f"--data.init_args.batch_size={batch_size}"]
    command = ["-m", "experiments", "finetune", "--task=malignancy", f"--data={root}", f"--runs={runs}", *how]
    command.append("--extra=" + json.dumps(extra))
    started = [
        subprocess.Popen(
            [sys.executable, *first.split(), *command],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for first in launch
    ]
    try:
        shown = [process.communicate(timeout=400)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * len(started), "\n".join(shown)
    assert sum(text.count("pooled external") for text in shown) == 1
    assert "pooled external" in shown[0]
    return shown[0]


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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    nodes = [
        f"-m torch.distributed.run --nnodes=2 --nproc_per_node=1 --node_rank={rank} --master_addr=127.0.0.1 "
        f"--master_port={port}"
        for rank in range(2)
    ]
    _start(tiny_root, tmp_path / "one", config, 14, ["--devices=1"], [""])
    _start(tiny_root, tmp_path / "two", config, 14, ["--devices=2"], [""])
    _start(tiny_root, tmp_path / "nodes", config, 14, ["--devices=1", "--nodes=2"], nodes)
    one, two, over = (
        tmp_path / name / "renal/tiny/malignancy/scratch-finetune-f1-s42" for name in ("one", "two", "nodes")
    )
    for folder in (two, over):
        first, second = (pd.read_parquet(path / "predictions.parquet") for path in (one, folder))
        assert first["patient_id"].tolist() == second["patient_id"].tolist()
        assert first["patient_id"].is_unique
    last = [torch.load(f / "checkpoints/last.ckpt", weights_only=True) for f in (one, two, over)]
    assert [checkpoint["global_step"] for checkpoint in last] == [2, 2, 2]
    # Two machines of one process do what one machine of two does, to the bit.
    for name, value in last[1]["state_dict"].items():
        assert torch.equal(value, last[2]["state_dict"][name]), name
