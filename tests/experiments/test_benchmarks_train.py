"""The training benchmark runs, and what it calls the same step is the same step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.benchmarks import train
from lightning_modules.networks.encoders import EncoderConfig


def test_it_writes_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = EncoderConfig(depth=10, width=8, stem_norm="instance")
    monkeypatch.setattr(train, "GEOMETRIES", {"demo": (small, (16, 16, 16), 2)})
    train.run(quick=True, out=tmp_path / "train.json")
    figures = json.loads((tmp_path / "train.json").read_text())
    assert figures["machine"]["torch"]
    rows = figures["demo"]
    assert rows[train.BARE]["ratio_to_reference"] == 1.0
    assert {"LightningModule", "with checkpointing", "without channels-last"} <= set(rows)
    assert all(row["wall_ms_median"] > 0 for row in rows.values() if isinstance(row, dict))
    assert rows["peak_memory_mb_activations_kept"] > 0


def test_the_batch_states_what_the_schema_knows() -> None:
    batch = train.make_batch((8, 12, 12), 3)
    module = train.make_module(EncoderConfig(depth=10, width=8))
    loss, terms = module.loss(module(batch["image"], batch["phase"]), batch["attributes"])
    assert float(loss.detach()) > 0
    assert terms.present.all()
