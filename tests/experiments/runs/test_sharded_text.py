"""A text tower that two ranks share out (FSDP2) takes the steps of one process, and goes on from its checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from experiments.runs.trainer import ShardingStrategy
from lightning_modules.core.distributed import number_of_ranks, own_rank, sum_over_ranks
from tests.lightning_modules.pretrain.test_joint_alignment import make_batch, make_tower
from tests.ranks import spawn
from tests.tiny_text import TEXTS, make_base

STEPS = 3


class _Rows(lightning.LightningDataModule):
    """The same global batch in every step, of which a rank has its share."""

    def __init__(self, batch: dict[str, Any]) -> None:
        super().__init__()
        self.batch = batch

    def texts(self, part: str) -> list[str]:
        return list(TEXTS)

    def train_dataloader(self) -> DataLoader[Any]:
        ranks, rows = number_of_ranks(), len(self.batch["report_id"])
        share = slice(own_rank() * rows // ranks, (own_rank() + 1) * rows // ranks)
        own = {
            name: {key: part[share] for key, part in value.items()} if name == "text" else value[share]
            for name, value in self.batch.items()
        }
        return DataLoader([own] * 100, batch_size=None)  # type: ignore[arg-type]


class _Losses(Callback):
    """The loss of every step over all ranks, and whether weights were sharded."""

    def __init__(self, stop: int) -> None:
        self.losses: list[float] = []
        self.stop = stop
        self.sharded = 0

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: object) -> None:
        self.losses.append(float(sum_over_ranks(outputs["loss"])) / number_of_ranks())
        trainer.should_stop = len(self.losses) == self.stop
        self.sharded = sum(isinstance(value, DTensor) for value in module.text_encoder.parameters())


def _fit(
    base: Path, folder: Path, name: str, strategy: Any, steps: int = STEPS, resumed: Path | None = None
) -> _Losses:
    torch.manual_seed(0)
    module = make_tower(base)
    batch, seen = make_batch(module), _Losses(steps)
    trainer = lightning.Trainer(
        accelerator="cpu", devices=number_of_ranks(), strategy=strategy, max_steps=STEPS, callbacks=[seen],
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, gradient_clip_val=0.2, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(module, datamodule=_Rows(batch), ckpt_path=resumed, weights_only=True)
    trainer.save_checkpoint(folder / f"{name}.ckpt", weights_only=False)
    return seen


def _rank(rank: int, folder: Path, base: Path) -> None:
    ranks = number_of_ranks()
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(ranks), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test"}
    whole = _fit(base, folder, "two", ShardingStrategy())
    half = _fit(base, folder, "half", ShardingStrategy(), STEPS - 1)
    rest = _fit(base, folder, "rest", ShardingStrategy(), resumed=folder / "half.ckpt")
    torch.save({"whole": whole.losses, "parts": half.losses + rest.losses, "sharded": whole.sharded},
               folder / f"rank{rank}.pt")  # fmt: skip


@pytest.mark.slow
def test_two_ranks_that_share_a_text_tower_train_as_one(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    one = _fit(base, tmp_path, "one", "auto")
    spawn(_rank, tmp_path, base)
    found = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for entry in found:
        assert entry["sharded"] > 0
        torch.testing.assert_close(torch.tensor(entry["whole"]), torch.tensor(one.losses), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(torch.tensor(entry["parts"]), torch.tensor(one.losses), rtol=1e-5, atol=1e-6)
    assert one.losses[-1] < one.losses[0]
    states = [torch.load(tmp_path / f"{name}.ckpt", weights_only=True)["state_dict"] for name in ("one", "two", "rest")]
    for state in states[1:]:
        assert set(state) == set(states[0])
        for name, value in states[0].items():
            torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-5, msg=name)
