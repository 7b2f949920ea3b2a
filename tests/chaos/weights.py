"""Hostile checkpoints and weights, as files that take the place of good ones."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from tests.chaos.sandbox import Case
from tests.chaos.stage import IMAGE, POINT, Stage


class _Touch:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("touch CANARY",)


def _ckpt(content: dict[str, object]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        stored = torch.load(path, weights_only=True)
        torch.save(stored | content, path)

    return write


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(change(path.read_bytes()))

    return write


def _entry(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../../../escaped", b"x")


CHECKPOINTS: dict[str, Callable[[Path], None]] = {
    "pickle": _bytes(lambda content: pickle.dumps(_Touch())),
    "pickle among weights": _ckpt({"hyper_parameters": _Touch()}),
    "callback that is one": _ckpt({"callbacks": {"x": _Touch()}}),
    "empty": _bytes(lambda content: b""),
    "half": _bytes(lambda content: content[: len(content) // 2]),
    "end lost": _bytes(lambda content: content[:-10]),
    "bit": _bytes(lambda content: content[:2000] + bytes([content[2000] ^ 1]) + content[2001:]),
    "text": _bytes(lambda content: b"weights"),
    "no weights": _ckpt({"state_dict": {}}),
    "other weights": _ckpt({"state_dict": {"encoder.x": torch.zeros(3)}}),
    "epoch": _ckpt({"epoch": -5, "global_step": 2**40}),
    "an archive that climbs": _entry,
    "a list": lambda path: torch.save([1, 2, 3], path),
    "NaN weights": lambda path: torch.save(
        (stored := torch.load(path, weights_only=True))
        | {"state_dict": {k: torch.full_like(v, float("nan")) if v.is_floating_point() else v
                          for k, v in stored["state_dict"].items()}}, path),
}  # fmt: skip


def checkpoint_cases(stage: Stage, rng: np.random.Generator, count: int) -> Iterator[Case]:
    """The last checkpoint of an interrupted run, replaced."""
    names = list(CHECKPOINTS)
    for number in range(count):
        name = names[number % len(names)]

        def prepare(folder: Path, name: str = name, both: bool = bool(number // len(names) % 2)) -> list[str]:
            run = stage.copy_runs(folder) / POINT
            for left in ("DONE", "predictions.parquet", "results.csv"):
                (run / left).unlink()
            for file in ("last.ckpt", *(["best.ckpt"] if both else [])):
                CHECKPOINTS[name](run / "checkpoints" / file)
            return ["resume", str(run), f"--runs={folder / 'runs'}"]

        yield Case("checkpoint", name, prepare, lambda folder: _same_predictions(stage, folder))


def _same_predictions(stage: Stage, folder: Path) -> bool:
    """Whether a run that ended well in spite of all ended as it did undamaged."""
    one, two = (root / "runs" / POINT / "predictions.parquet" for root in (stage.root, folder))
    return two.is_file() and pd.read_parquet(one).equals(pd.read_parquet(two))


def _tensors(header: dict[str, object] | bytes, body: bytes = b"\0" * 64) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


TENSORS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "end lost": lambda content: content[:-8],
    "long header": lambda content: struct.pack("<Q", 2**62) + content[8:],
    "no JSON": lambda content: _tensors(b"\xff" * 40),
    "no tensors": lambda content: _tensors({}),
    "beyond the file": lambda content: _tensors({"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 2**40]}}),
    "overlap": lambda content: _tensors(
        {name: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for name in ("x", "y")}
    ),
    "huge shape": lambda content: _tensors({"x": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 64]}}),
    "pickle": lambda content: pickle.dumps(_Touch()),
    "a bit of a weight": lambda content: content[:-5] + bytes([content[-5] ^ 64]) + content[-4:],
}


def tensor_cases(stage: Stage, rng: np.random.Generator, count: int) -> Iterator[Case]:
    """Weights of a pretrained encoder, replaced."""
    names = list(TENSORS)
    for number in range(count):
        name = names[number % len(names)]

        def prepare(folder: Path, name: str = name) -> list[str]:
            target = stage.copy_runs(folder) / IMAGE / "encoder" / "model.safetensors"
            target.write_bytes(TENSORS[name](target.read_bytes()))
            return stage.finetune(folder, "--encoder=stage1")

        yield Case("safetensors", name, prepare)
