"""Staged faults: disks that take no more, folders that may not be written, memory that ends, files that were damaged.

After each the fault is taken away and the same command must end well: what does not is stuck.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import resource
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.chaos.commands import COMMANDS, is_healthy
from tests.chaos.sandbox import LIMIT_S, Answer, Outcome, ask
from tests.chaos.stage import ENCODER, MALIGNANCY, POINT, Stage

Hook = Callable[[], None]


@dataclass(frozen=True)
class Fault:
    """A fault of one command.

    Args:
        kind: disk, permission, memory, file, store, worker, twice or signal.
        name: What is done.
        command: Name of the command.
        begin: Stages it in the folder, once the command's inputs lie there; gives what the process calls first, and
            what takes the fault away.
        codes: Exit codes that may follow; 0 counts as read right where the result is that of a healthy run.
        said: Words that may stand for that: what is left out is named.
    """

    kind: str
    name: str
    command: str
    begin: Callable[[Path], tuple[Hook | None, Hook]]
    codes: tuple[int, ...] = (0, 1, 2)
    said: str = ""


def _nothing() -> None:
    return None


def _disk(size: int) -> Callable[[Path], tuple[Hook | None, Hook]]:
    def before() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return lambda folder: (before, _nothing)


def _memory(spare: int) -> Callable[[Path], tuple[Hook | None, Hook]]:
    def before() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + spare
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    return lambda folder: (before, _nothing)


def _read_only(*names: str) -> Callable[[Path], tuple[Hook | None, Hook]]:
    """Folders that may be read and not written, also by root."""

    def begin(folder: Path) -> tuple[Hook | None, Hook]:
        for name in names:
            (folder / name).mkdir(exist_ok=True)
        places = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
        for path in places:
            path.chmod(0o555)

        def end() -> None:
            for path in places:
                path.chmod(0o755)

        return _without_override, end

    return begin


def _without_override() -> None:
    """Give up the right of root to write where nobody may (CAP_DAC_OVERRIDE, capabilities(7))."""
    if os.geteuid():
        return
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, twice
    library = ctypes.CDLL(None, use_errno=True)
    if library.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    for place in range(3):
        sets[place] &= ~(1 << 1)
    if library.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def _damaged(pattern: str, how: str, seed: int) -> Callable[[Path], tuple[Hook | None, Hook]]:
    def begin(folder: Path) -> tuple[Hook | None, Hook]:
        rng = np.random.default_rng(seed)
        found = sorted(folder.glob(pattern))
        path = found[int(rng.integers(len(found)))]
        kept = path.read_bytes()
        content = bytearray(kept)
        if how == "flipped":
            content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        elif how == "cut":
            content = content[: int(rng.integers(1, len(content)))]
        elif how == "zeros":
            content = bytearray(len(content))
        path.unlink()
        if how != "lost":
            path.write_bytes(b"" if how == "emptied" else bytes(content))

        def end() -> None:
            path.write_bytes(kept)

        return None, end

    return begin


def _locked(folder: Path) -> tuple[Hook | None, Hook]:
    held = sqlite3.connect(folder / "runs" / "mlflow.db", check_same_thread=False)
    held.execute("BEGIN EXCLUSIVE")
    return None, held.close


def _signal(number: int, after_s: float) -> Callable[[Path], tuple[Hook | None, Hook]]:
    def before() -> None:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        timer = threading.Timer(after_s, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()

    return lambda folder: (before, _nothing)


def _twice(folder: Path) -> tuple[Hook | None, Hook]:
    """The same command a second time, at the same time."""

    def before() -> None:
        if twin := os.fork():
            atexit.register(os.waitpid, twin, 0)

    return before, _nothing


def _killed_worker(folder: Path) -> tuple[Hook | None, Hook]:
    """Kill the first process that the command starts for its work, as the kernel does where memory ends."""

    def kill(parent: int) -> None:
        while True:
            time.sleep(0.05)
            for place in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    started = int((place / "stat").read_text().rsplit(")", 1)[1].split()[1])
                    if started == parent and b"spawn_main" in (place / "cmdline").read_bytes():
                        time.sleep(0.5)
                        os.kill(int(place.name), signal.SIGKILL)
                        return

    return lambda: threading.Thread(target=kill, args=(os.getpid(),), daemon=True).start(), _nothing


def all_faults(seed: int) -> Iterator[Fault]:
    """All faults, their places and times drawn by seed."""
    rng = np.random.default_rng([seed, 100])
    for command in ("import", "import of DICOM", "finetune", "report", "qc", "attributes", "radiomics",
                    "assess", "refresh", "volumes"):  # fmt: skip
        size = int(rng.choice([0, 500, 5000]))
        yield Fault("disk", f"files of at most {size} bytes", command, _disk(size))
    for command, names in {
        "data-check": (), "import": ("out",), "finetune": ("runs",), "report": ("report",), "qc": (),
        "attributes": (), "radiomics": ("runs",), "doctor": ("runs",), "assess": ("out",), "refresh": (), "volumes": (),
    }.items():  # fmt: skip
        yield Fault("permission", "read-only folders", command, _read_only(*names))
    for command in ("import", "import of DICOM", "finetune", "radiomics", "qc", "assess"):
        yield Fault("memory", "32 MB more than at its start", command, _memory(32 << 20))
    files = (
        ("tiny/cohort.json", "cut", "finetune"),
        ("tiny/patients.parquet", "cut", "finetune"),
        ("tiny/splits.parquet", "flipped", "data-check"),
        ("tiny/volumes/*/shards/*.bin", "cut", "finetune"),
        ("tiny/volumes/*/shards/*.bin", "flipped", "data-check"),
        ("tiny/volumes/*/shards/index.json", "emptied", "finetune"),
        ("tiny/volumes/*/index.parquet", "zeros", "finetune"),
        ("imported/volumes/*/files.parquet", "cut", "radiomics"),
        ("imported/volumes/*/masks/*.npz", "cut", "radiomics"),
        ("tiny/volumes/*/masks/*.npz", "cut", "qc"),
        ("tiny/volumes/*/masks/*.npz", "flipped", "data-check"),
        ("tiny/reports.parquet", "lost", "attributes"),
        (f"runs/{POINT}/config.yaml", "cut", "resume"),
        (f"runs/{POINT}/run.json", "emptied", "resume"),
        (f"runs/{POINT}/checkpoints/last.ckpt", "cut", "resume"),
        (f"runs/{POINT}/mlflow.json", "zeros", "resume"),
        ("runs/mlflow.db", "zeros", "resume"),
        (f"runs/{POINT}/predictions.parquet", "cut", "report"),
        (f"runs/{POINT}/run.json", "emptied", "report"),
        ("imported/cohort.json", "cut", "refresh"),
        ("imported/.build/*/*.json", "cut", "refresh"),
        ("imported/.build/source.json", "zeros", "refresh"),
        ("imported/volumes/*/contract.json", "cut", "volumes"),
        ("out/.build/*/*.json", "zeros", "import again"),
        ("out/.build/source.json", "cut", "import again"),
        ("out.private/index-*/*.jsonl", "cut", "import of DICOM again"),
        ("out.private/index-*/complete.json", "emptied", "import of DICOM again"),
        ("out/*/assessment.json", "cut", "assess again"),
        ("out/*/input.json", "zeros", "assess again"),
        ("out/assessments.parquet", "cut", "assess again"),
        ("assess/few/cohort.json", "cut", "assess"),
        (f"{MALIGNANCY}/results.csv", "cut", "assess"),
        (f"{MALIGNANCY}/predictions.parquet", "cut", "assess"),
        (f"{ENCODER}/model.safetensors", "flipped", "assess"),
        (f"{ENCODER}/contract.json", "cut", "assess"),
        (f"{ENCODER}/attribute_heads.safetensors", "flipped", "assess"),
    )
    for pattern, how, command in files:
        yield Fault(
            "file", f"{pattern.split('/')[-1]} {how}", command, _damaged(pattern, how, int(rng.integers(2**31)))
        )
    for pattern, how, said in (
        (f"{MALIGNANCY}/head/head.safetensors", "flipped", "task malignancy is left out"),
        (f"{MALIGNANCY}/head/head.json", "emptied", "task malignancy is left out"),
        (f"{ENCODER}/likeness.safetensors", "flipped", "cannot be held against"),
        (f"{ENCODER}/likeness.json", "cut", "cannot be held against"),
    ):
        begin = _damaged(pattern, how, int(rng.integers(2**31)))
        yield Fault("file", f"{pattern.split('/')[-1]} {how}", "assess", begin, said=said)
    yield Fault("twice", "the same command at the same time", "assess", _twice)
    yield Fault("store", "MLflow's database is locked", "resume", _locked)
    for command in ("import in processes", "radiomics in processes"):
        yield Fault("worker", "the first worker is killed", command, _killed_worker)
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        yield Fault("signal", number.name, "finetune", _signal(number, float(rng.uniform(1.5, 4))), (code,))


def stage_fault(stage: Stage, fault: Fault, folder: Path) -> tuple[Outcome, Answer]:
    """Run a command with its fault, then without."""
    folder.mkdir(parents=True)
    arguments = COMMANDS[fault.command](stage, folder)
    before, end = fault.begin(folder)
    answer = ask(arguments, folder, before, limit_s=LIMIT_S)
    end()
    if answer.code is None:
        return "hung", answer
    if answer.traced:
        return "trace", answer
    if answer.code < 0:
        return "silent", answer
    if answer.code not in fault.codes or (answer.code and not answer.sentence):
        return "silent", answer
    outcome: Outcome = "refused"
    if answer.code == 0:
        told = bool(fault.said) and fault.said in answer.text
        outcome = "read right" if told or is_healthy(stage, fault.command, folder) else "silent"
    again = ask(arguments, folder, limit_s=LIMIT_S)
    if again.code is None:
        return "hung", Answer(None, f"{answer.sentence} THEN {again.sentence}", again.seconds)
    if again.code != 0 or not is_healthy(stage, fault.command, folder):
        return "stuck", Answer(again.code, f"{answer.sentence} THEN {again.sentence}", answer.seconds)
    return outcome, answer
