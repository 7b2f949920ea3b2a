"""The training benchmark runs, takes fair turns, and counts the work of a step as a formula does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_modules.networks.image.encoders import EncoderConfig
from tests.benchmarks import train
from tests.benchmarks.step_bound import KINDS, Counter
from tests.benchmarks.steps import LIGHTNING, UNBUFFERED, interleaved_steps, make_batch, make_module

SMALL = EncoderConfig(depth=10, width=4, stem_norm="instance")


@pytest.mark.slow
def test_it_writes_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = train.Geometry(SMALL, (16, 16, 16), 2, 2, 5)
    monkeypatch.setattr(train, "GEOMETRIES", {"demo": geometry})
    monkeypatch.setattr(train, "HOST", geometry._replace(crop=(8, 8, 8)))
    train.run(quick=True, out=tmp_path / "train.json")
    figures = json.loads((tmp_path / "train.json").read_text())
    assert figures["machine"]["torch"]
    assert set(figures["added_ms_a_step"]) == {LIGHTNING, UNBUFFERED}
    rows = figures["demo"]["steps"]
    assert rows[train.BARE]["ratio_interval_95"] == [1.0, 1.0]
    assert {LIGHTNING, UNBUFFERED, "with checkpointing", "without channels-last"} <= set(rows)
    for row in rows.values():
        low, high = row["ratio_interval_95"]
        assert low <= row["ratio_to_reference"] <= high
    assert figures["demo"]["peak_memory_mb"]["kept"] > 0
    assert sum(kind["share_of_time"] for kind in figures["demo"]["bound"]["kinds"].values()) == pytest.approx(1.0)


def test_lightning_takes_one_full_step_a_turn(tmp_path: Path) -> None:
    """Were a step begun in one turn and ended in another, the figures of both would be wrong."""
    module, events = make_module(SMALL), []
    step = module.optimizer_step

    def watched(*args: object, **kwargs: object) -> None:
        step(*args, **kwargs)  # type: ignore[arg-type]
        events.append("lightning")

    module.optimizer_step = watched  # type: ignore[method-assign]
    batch = make_batch((8, 8, 8), 2)
    rounds = interleaved_steps(module, batch, {"bare": lambda: events.append("bare")}, 3, tmp_path)
    assert [set(seconds) for seconds in rounds] == [{"bare", LIGHTNING, UNBUFFERED}] * 3
    # Rounds -1, 0, 1 and 2 begin with the last, the first, the second and the third name; one fetched batch is left.
    assert [event[0] for event in events] == list("lblbllllblbll")


def test_the_batch_states_what_the_schema_knows() -> None:
    batch = make_batch((8, 12, 12), 3)
    module = make_module(EncoderConfig(depth=10, width=8))
    loss, terms = module.loss(module(batch["image"], batch["phase"]), batch["attributes"])
    assert float(loss.detach()) > 0
    assert terms.present.all()


def test_the_work_of_a_convolution_is_counted_forward_and_backward() -> None:
    convolution, image = nn.Conv3d(2, 3, 3, bias=False), torch.rand(1, 2, 5, 6, 7, requires_grad=True)
    with Counter(flop_per_second=1e9, bytes_per_second=1e9) as counter:
        convolution(image).sum().backward()
    multiplications = 3 * 2 * 27 * (3 * 4 * 5)
    work = counter.work[KINDS[0]]
    assert work.flop == 3 * 2 * multiplications  # forward, gradient of the image, gradient of the kernel
    inputs, kernel, outputs = 2 * 210, 3 * 2 * 27, 3 * 60
    forward, backward = inputs + kernel + outputs, outputs + inputs + kernel + inputs + kernel
    assert work.bytes == 4 * (forward + backward)
    assert work.floor_seconds == pytest.approx(work.flop / 1e9)
    assert counter.work[KINDS[2]].flop == 0


def test_views_move_nothing() -> None:
    values = torch.rand(4, 4)
    with Counter(flop_per_second=1e9, bytes_per_second=1e9) as counter:
        values.view(2, 8).t()
    assert sum(work.bytes for work in counter.work.values()) == 0
