"""The Trainer: precision by what a GPU computes in itself, and steps that are divided among devices."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch

from datamodules.errors import DataError
from datamodules.loading.global_batch import share_of_step
from experiments.runs.trainer import auto_precision, divide_steps
from lightning_modules.core.errors import ModelError
from lightning_modules.networks.text.language_model import resolve_dtype


@pytest.mark.parametrize(
    ("capabilities", "precision", "dtype"),
    [
        ([(7, 0)], "16-mixed", torch.float16),  # V100
        ([(7, 5)], "16-mixed", torch.float16),  # T4
        ([(8, 0)], "bf16-mixed", torch.bfloat16),  # A100
        ([(9, 0), (9, 0)], "bf16-mixed", torch.bfloat16),  # H100
        ([(9, 0), (7, 0)], "16-mixed", torch.float16),  # a machine with both: all ranks compute alike
    ],
)
def test_bf16_only_where_every_gpu_has_it(
    capabilities: list[tuple[int, int]], precision: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=0: capabilities[device])
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)  # which counts emulation
    assert auto_precision() == precision
    assert auto_precision("cpu") == "32-true"
    assert resolve_dtype("auto", torch.device("cuda")) == dtype


def _divided(batch: int, bound: int | None, devices: int, *, whole: bool = False, **options: Any) -> lightning.Trainer:
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=devices,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        **options,
    )
    data = SimpleNamespace(share=lambda ranks: share_of_step(batch, ranks, bound), device_batch=bound)
    divide_steps(trainer, SimpleNamespace(whole_step=whole), data)  # type: ignore[arg-type]
    return trainer


def test_parts_of_a_step_follow_from_devices_and_memory() -> None:
    assert _divided(32, None, 1).accumulate_grad_batches == 1
    assert _divided(32, 8, 1).accumulate_grad_batches == 4
    assert _divided(32, 8, 2).accumulate_grad_batches == 2
    assert _divided(32, 8, 1, limit_train_batches=3).limit_train_batches == 12
    assert _divided(32, 8, 1, limit_train_batches=0.5).limit_train_batches == 0.5


def test_steps_that_would_be_others_are_refused() -> None:
    with pytest.raises(DataError, match="does not divide among 3 devices"):
        _divided(32, None, 3)
    with pytest.raises(ModelError, match="would multiply the step"):
        _divided(32, None, 1, accumulate_grad_batches=2)
    with pytest.raises(ModelError, match=r"compares the samples.*micro_batch"):
        _divided(32, 8, 1, whole=True)
