"""Exported folders know damage to either of their files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_modules.core.errors import ModelError
from lightning_modules.export.layout import SEAL
from lightning_modules.export.task_head import HEAD, HEAD_CONFIG, TaskHead, load_task_head, save_task_head

ENCODER = "a" * 64


def head(folder: Path) -> TaskHead:
    """A head of three features and two classes, written into a folder."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    found = TaskHead(
        task="malignancy", outcome="classification", classes=("benign", "malignant"), endpoint="", phases="single",
        crop=(8, 10, 10), patients=9, events=(4, 5), encoder_sha256=ENCODER, mean=drawn(3), scale=drawn(3) + 0.1,
        weight=drawn(2, 3), bias=drawn(2), months=drawn(0), hazard=drawn(0), risk_cuts=drawn(0),
    )  # fmt: skip
    save_task_head(folder, found)
    return found


@pytest.mark.parametrize("file", [HEAD, HEAD_CONFIG])
def test_no_flipped_bit_is_taken_for_what_was_written(file: str, tmp_path: Path) -> None:
    """A bit of a weight is a plausible weight, and one of a digit another digit."""
    written = head(tmp_path)
    content = (tmp_path / file).read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(len(content), size=200):
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        (tmp_path / file).write_bytes(bytes(changed))
        try:
            found = load_task_head(tmp_path, ENCODER)
        except ModelError:
            continue
        assert repr(found) == repr(written)  # a bit of a blank between values
    (tmp_path / file).write_bytes(content)
    assert repr(load_task_head(tmp_path, ENCODER)) == repr(written)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: {**content, "classes": 3},
        lambda content: {**content, "classes": ["benign"]},
        lambda content: {**content, "classes": [1, 2]},
        lambda content: {**content, "crop": [8, 10]},
        lambda content: {**content, "crop": ["8", 10, 10]},
        lambda content: {**content, "outcome": "regression"},
        lambda content: {**content, "outcome": "survival"},
        lambda content: {**content, "phases": None},
        lambda content: list(content),
        lambda content: None,
    ],
)
def test_a_head_of_before_there_were_seals_is_held_to_its_types(
    change: Callable[[dict[str, Any]], Any], tmp_path: Path
) -> None:
    head(tmp_path)
    content = json.loads((tmp_path / HEAD_CONFIG).read_text())
    del content[SEAL]
    (tmp_path / HEAD_CONFIG).write_text(json.dumps(content))
    assert load_task_head(tmp_path, ENCODER).classes == ("benign", "malignant")
    (tmp_path / HEAD_CONFIG).write_text(json.dumps(change(content)))
    with pytest.raises(ModelError):
        load_task_head(tmp_path, ENCODER)
