"""Checkpoints outlive kills, full disks and a folder for temporary files on another file system."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import tempfile
import time
from pathlib import Path

import pytest
import torch
from lightning.fabric.plugins import CheckpointIO

from datamodules.errors import DataError
from experiments.runs.trainer import DurableCheckpointIO, SuiteTrainer

SHARED_MEMORY = Path("/dev/shm")


def _content(step: int, size: int = 1) -> dict[str, torch.Tensor]:
    return {"step": torch.full((size,), step)}


def _writer() -> CheckpointIO:
    """What a run writes its checkpoints with."""
    return SuiteTrainer(accelerator="cpu", logger=False, enable_checkpointing=False).strategy.checkpoint_io


@pytest.fixture
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on another file system than that for temporary files."""
    if not SHARED_MEMORY.is_dir() or SHARED_MEMORY.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system to write to")
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield tmp_path
        assert list(Path(folder).iterdir()) == []


def test_an_old_checkpoint_is_never_written_into(apart: Path) -> None:
    writer, path = _writer(), apart / "best.ckpt"
    writer.save_checkpoint(_content(1), path)
    os.link(path, apart / "old.ckpt")  # the same bytes: written over, they would change under this name, too
    writer.save_checkpoint(_content(2), path)
    assert torch.equal(torch.load(apart / "old.ckpt", weights_only=True)["step"], torch.tensor([1]))
    assert torch.equal(torch.load(path, weights_only=True)["step"], torch.tensor([2]))


def _save_for_ever(path: Path) -> None:
    writer = DurableCheckpointIO()
    for step in range(10_000):
        writer.save_checkpoint(_content(step, 500_000), path)


@pytest.mark.slow
def test_a_killed_writer_leaves_whole_checkpoints(apart: Path) -> None:
    path = apart / "last.ckpt"
    for kill in range(12):
        process = multiprocessing.get_context("fork").Process(target=_save_for_ever, args=(path,))
        process.start()
        while not (path.is_file() or path.with_name("last.previous.ckpt").is_file()):
            time.sleep(0.001)
        time.sleep(0.02 + 0.011 * kill)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        for found in apart.glob("last*.ckpt"):
            assert len(torch.load(found, weights_only=True)["step"]) == 500_000
        assert list(apart.glob("last*.ckpt"))


def _save_beyond_a_limit(path: Path, outcome: multiprocessing.Queue[str]) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        DurableCheckpointIO().save_checkpoint(_content(2, 500_000), path)
    except DataError as error:
        outcome.put(str(error))
    except BaseException as error:
        outcome.put(f"{type(error).__name__}: {error}")


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    DurableCheckpointIO().save_checkpoint(_content(1), path)
    context = multiprocessing.get_context("fork")
    outcome: multiprocessing.Queue[str] = context.Queue()
    process = context.Process(target=_save_beyond_a_limit, args=(path, outcome))
    process.start()
    said = outcome.get(timeout=20)
    process.join()
    assert said.startswith("last.ckpt could not be written in")
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.equal(torch.load(path, weights_only=True)["step"], torch.tensor([1]))


def test_the_checkpoint_before_is_kept_unless_it_is_damaged(tmp_path: Path) -> None:
    writer, path, previous = _writer(), tmp_path / "last.ckpt", tmp_path / "last.previous.ckpt"
    for step in (1, 2):
        writer.save_checkpoint(_content(step), path)
    assert int(torch.load(previous, weights_only=True)["step"]) == 1
    path.write_bytes(b"")
    writer = _writer()  # of another process, which went on from the one before
    writer.save_checkpoint(_content(3), path)
    assert int(torch.load(previous, weights_only=True)["step"]) == 1
    assert int(writer.load_checkpoint(path, weights_only=True)["step"]) == 3
    writer.save_checkpoint(_content(4), path)
    assert int(torch.load(previous, weights_only=True)["step"]) == 3
