"""How commands end: interrupted and terminated runs, and every failure as a sentence with its exit code."""

from __future__ import annotations

import errno
import io
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from filelock import Timeout
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from callbacks.interruption import Terminated, goes_on_from
from datamodules.errors import DataError
from experiments.cli import main
from experiments.runs.console import configure_output
from experiments.runs.failures import describe, end
from experiments.runs.trainer import PREVIOUS, DurableCheckpointIO

ROOT = Path(__file__).parents[3]
_TINY = {
    "contract": {"grid": [8, 12, 12]},
    "augmentation": {"crop": [8, 10, 10]},
    "encoder": {"width": 4, "depth": 10},
    "data": {"init_args": {"samples_per_epoch": None}},
    "trainer": {"max_epochs": 2000, "accelerator": "cpu"},
}
_RUN = "renal/tiny/malignancy/scratch-finetune-f1-s42"


def _start(root: Path, runs: Path, *more: str, **environment: str) -> subprocess.Popen[str]:
    config = runs.parent / "tiny.yaml"
    config.write_text(yaml.safe_dump(_TINY))
    command = [sys.executable, "-m", "experiments", "finetune", "--task=malignancy", f"--data={root}", f"--runs={runs}"]
    place = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    place.pop("RENAL_DEBUG")
    return subprocess.Popen(
        [*command, *more, f'--extra=["--config={config}"]'],
        cwd=ROOT,
        env=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _nobody_is_left(group: int) -> bool:
    """Whether no rank and no worker runs any more, ten seconds at most after the command."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        stats = [text.rpartition(")")[2].split() for text in _stats()]
        if not [stat for stat in stats if int(stat[2]) == group and stat[0] != "Z"]:
            return True
        time.sleep(0.2)
    return False


def _stats() -> list[str]:
    texts = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            texts.append(path.read_text())
    return texts


def _epoch(path: Path) -> int:
    return int(torch.load(path, weights_only=True, mmap=True)["epoch"]) if path.is_file() else -1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "whole_group", "ranks", "code", "word"),
    [
        (signal.SIGTERM, False, 1, 143, "Terminated."),
        (signal.SIGINT, True, 1, 130, "Interrupted."),
        (signal.SIGTERM, False, 2, 143, "Terminated."),
    ],
)
def test_a_training_that_is_stopped_says_from_where_it_goes_on(
    number: int, whole_group: bool, ranks: int, code: int, word: str, tiny_root: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    process = _start(tiny_root, runs, f"--devices={ranks}")
    last = runs / _RUN / "checkpoints/last.ckpt"
    try:
        until = time.monotonic() + 300
        while _epoch(last) < 2:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.1)
        if whole_group:  # as a terminal does
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == code, said
    lines = [line for line in said.splitlines() if line.startswith(word)]
    newest = last if last.is_file() else last.with_name("last.previous.ckpt")  # stopped while it was replaced
    assert lines == [f"{word} The same command goes on after epoch {_epoch(newest) + 1}."]
    assert "Traceback" not in said
    assert _nobody_is_left(process.pid)


class _Stopped(io.BytesIO):
    """A file whose second write is interrupted."""

    def __init__(self, stop: type[BaseException]) -> None:
        super().__init__()
        self._stop, self._writes = stop, 0

    def write(self, block: Any, /) -> int:
        self._writes += 1
        if self._writes == 2:
            raise self._stop
        return super().write(block)


@pytest.mark.parametrize(
    ("stop", "code", "word"), [(Terminated, 143, "Terminated."), (KeyboardInterrupt, 130, "Interrupted.")]
)
def test_an_interruption_within_a_checkpoint_is_told_as_one(
    stop: type[BaseException], code: int, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"epoch": 4}, tmp_path / "last.ckpt")
    with pytest.raises(RuntimeError, match="unexpected pos") as found, goes_on_from(tmp_path / "last.ckpt"):
        torch.save({"epoch": 5}, _Stopped(stop))
    assert end(found.value) == code
    assert capsys.readouterr().err == f"{word} The same command goes on after epoch 5.\n"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_import_that_is_stopped_leaves_no_process_and_no_trace(number: int, code: int, tmp_path: Path) -> None:
    out = tmp_path / "cohort"
    command = [sys.executable, "-m", "experiments", "cohort", f"--out={out}", "--patients=4000", "--workers=2"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        until = time.monotonic() + 200
        while not list(out.glob(".build/*/*.json")):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        os.killpg(process.pid, number)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == code, said
    assert "The same command goes on" in said
    assert "Traceback" not in said
    assert _nobody_is_left(process.pid)


def test_an_interruption_while_the_last_checkpoint_is_replaced_names_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    writer, last = DurableCheckpointIO(), tmp_path / "last.ckpt"
    writer.save_checkpoint({"epoch": 4}, last)
    replace = Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        if self.suffix == ".part":
            raise Terminated
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(Terminated) as found, goes_on_from(last, tmp_path / PREVIOUS[last.name]):
        writer.save_checkpoint({"epoch": 5}, last)
    assert end(found.value) == 143
    assert capsys.readouterr().err == "Terminated. The same command goes on after epoch 5.\n"


class _LocalError(Exception):
    pass


def _from(cause: BaseException, error: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def _allocate() -> None:
    torch.empty(1 << 60)


def _allocate_array() -> None:
    np.empty(1 << 50, dtype=np.float64)


def _locked(path: Path) -> None:
    first, second = sqlite3.connect(path), sqlite3.connect(path, timeout=0)
    first.execute("begin exclusive")
    second.execute("create table x (y)")


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (MemoryError(), 1, "has no memory left. Lower data.init_args.batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 1, "The GPU has no memory left"),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), 1, "The GPU has no memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 1, "has no memory left"),
        (RuntimeError("could not create a primitive"), 1, "has no memory left"),
        (OSError(errno.ENOSPC, "No space left on device", "/a/secret/b/x.bin"), 1, "x.bin in b could not be written"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/a/b/x.bin"), 1, "Free some space"),
        (PermissionError(errno.EACCES, "Permission denied", "/a/secret/b/x.bin"), 1, "Change its permissions"),
        (OSError(errno.EROFS, "Read-only file system", "/a/b/x.bin"), 1, "name another folder"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/a/secret/b/x"), 2, "x in b: No such file"),
        (OSError(errno.EIO, "Input/output error", "/a/b/x"), 1, "Look after the disk"),
        (sqlite3.OperationalError("database is locked"), 1, "The store of the runs does not answer"),
        (MlflowException("database disk image is malformed"), 1, "The store of the runs does not answer"),
        (ModuleNotFoundError("No module named 'litdata'", name="litdata"), 1, "pip install --no-deps litdata llm-"),
        (Timeout("/a/secret/claim.lock"), 1, "Another process holds claim.lock"),
        (_from(OSError(errno.ENOSPC, "No space left"), DataError("x could not be written.")), 1, "x could not be"),
        (DataError("x has 3 rows."), 2, "x has 3 rows."),
        (_from(MemoryError(), _LocalError("while it built")), 1, "has no memory left"),
        (KeyboardInterrupt(), 130, "Interrupted. The same command goes on"),
    ],
)
def test_a_failure_is_a_sentence_with_a_code(
    error: BaseException, code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end(error) == code
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert "secret" not in said  # folders above a file may name a hospital


@pytest.mark.parametrize(("work", "sentence"), [(_allocate, "no memory left"), (_allocate_array, "no memory left")])
def test_libraries_that_find_no_memory_are_understood(work, sentence: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises((RuntimeError, MemoryError)) as found:
        work()
    failure = describe(found.value)
    assert failure is not None
    assert sentence in failure.sentence


def test_a_locked_store_is_understood(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError) as found:
        _locked(tmp_path / "store.db")
    failure = describe(found.value)
    assert failure is not None
    assert "database is locked" in failure.sentence


@pytest.mark.slow
def test_a_store_that_fails_prints_no_trace_of_its_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    configure_output()
    client = MlflowClient(f"sqlite:///{tmp_path / 'secret.db'}")
    client.search_experiments()
    with closing(sqlite3.connect(tmp_path / "secret.db")) as store:
        store.execute("DROP TABLE experiments")
    capfd.readouterr()
    with pytest.raises(MlflowException):
        client.create_experiment("x")
    assert capfd.readouterr() == ("", "")


def test_a_defect_is_a_sentence_and_its_trace_a_file_of_this_user_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def broken(*_: object, **__: object) -> None:
        raise KeyError("patient 17")

    monkeypatch.setattr("experiments.cohorts.cohort_commands.check_cohort", broken)
    with pytest.raises(KeyError):
        main(["data-check", f"--data={tmp_path}"])  # RENAL_DEBUG=1
    monkeypatch.delenv("RENAL_DEBUG")
    assert main(["data-check", f"--data={tmp_path}"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: Unexpected KeyError in ")
    assert said.count("\n") == 1
    assert "patient 17" not in said
    (trace,) = tmp_path.glob("renal-suite-*.txt")
    assert "KeyError: 'patient 17'" in trace.read_text()
    assert trace.stat().st_mode & 0o077 == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--trainer.strategy=nonsense", "Lightning refuses the trainer's settings"),
        ("--trainer.precision=7-bit", "precision"),
        ("--trainer.accelerator=abacus", "Lightning refuses the trainer's settings"),
        ("--optimizer.lr=.nan", "all finite"),
        ("--optimizer.lr=.inf", "all finite"),
        ("--seed_everything=-1", "expected a whole number from 0 to 4294967295"),
        (f"--seed_everything={2**40}", "expected a whole number from 0 to 4294967295"),
    ],
)
def test_a_setting_that_lightning_refuses_is_a_sentence(
    flag: str, sentence: str, tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(_TINY))
    arguments = ["finetune", "--task=malignancy", f"--data={tiny_root}", f"--runs={tmp_path / 'runs'}"]
    assert main([*arguments, f'--extra=["--config={tmp_path / "tiny.yaml"}", "{flag}"]']) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_a_group_that_holds_nothing_is_a_sentence(
    tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(_TINY | {"optimizer": None}))
    arguments = ["finetune", "--task=malignancy", f"--data={tiny_root}", f"--runs={tmp_path / 'runs'}"]
    assert main([*arguments, f'--extra=["--config={tmp_path / "tiny.yaml"}"]']) == 2
    said = capsys.readouterr().err
    assert "The configuration builds no data, model or trainer" in said
    assert str(tmp_path) not in said


@pytest.mark.parametrize("content", ["", "[", "[]", "{}", "\xff", '{"name": 3}', "[" * 100_000, "null"])
def test_a_damaged_cohort_is_a_sentence(content: str, tiny_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny_copy / "cohort.json").write_bytes(content.encode("latin-1"))
    for command in ("data-check", "qc", "attributes", "finetune --task=malignancy"):
        code = main([*command.split(), f"--data={tiny_copy}"])
        said = capsys.readouterr()
        assert code == (1 if command == "data-check" else 2), command
        assert "cohort.json" in said.err + said.out
        assert said.err.count("\n") == (command != "data-check")


@pytest.mark.slow
@pytest.mark.parametrize("content", ["", "[", "[]", "\xff", "a: [", "3", "a: &a [*a]"])
def test_a_damaged_configuration_of_a_run_is_a_sentence(
    content: str, tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(_TINY))
    folder = tmp_path / "runs" / _RUN
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_bytes(content.encode("latin-1"))
    arguments = ["finetune", "--task=malignancy", f"--data={tiny_root}", f"--runs={tmp_path / 'runs'}"]
    assert main([*arguments, f'--extra=["--config={tmp_path / "tiny.yaml"}"]']) == 2
    said = capsys.readouterr().err
    assert "config.yaml of the run scratch-finetune-f1-s42" in said
    assert said.count("\n") == 1


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(self: Path, *_: object, **__: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr("datamodules.files.tempfile.mkstemp", lambda **place: write(Path(str(place["dir"])) / "x"))


@pytest.mark.usefixtures("full_disk")
def test_a_cohort_on_a_read_only_disk_is_checked_all_the_same(
    tiny_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data-check", f"--data={tiny_root}"]) == 0
    said = capsys.readouterr()
    assert "PASS" in said.out
    assert "data-check.json could not be written" in said.err + said.out
    assert main(["qc", f"--data={tiny_root}"]) == 1
    said = capsys.readouterr()
    assert "could not be written" in said.err
    assert said.err.count("\n") == 1


def test_the_words_of_a_refused_pickle_are_not_passed_on(tmp_path: Path) -> None:
    from experiments.runs.suite_cli import read_checkpoint
    from lightning_modules.core.errors import ModelError

    torch.save({"state_dict": pd.Series([1.0])}, tmp_path / "bad.ckpt")
    with pytest.raises(ModelError) as found:
        read_checkpoint(tmp_path / "bad.ckpt")
    assert "weights_only" not in str(found.value)
    assert "nothing of it was run" in str(found.value)
