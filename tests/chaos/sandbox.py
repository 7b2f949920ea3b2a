"""One command in a forked process, in a folder of its own, under a limit of time and memory; and what became of it."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Outcome = Literal["read right", "refused", "silent", "trace", "hung", "executed", "stuck"]
OUTCOMES: tuple[Outcome, ...] = ("read right", "refused", "silent", "trace", "hung", "executed", "stuck")
"""What a hostile input may end in: its content taken for what it is; one sentence and an exit code; taken as if nothing
were wrong; a trace; no end; code of its own run, or a file written where nothing was asked for; a state that the same
command does not get out of once the fault is gone."""
CANARY = "chaos_canary"
MARK = "CHAOS_FOLDER"
"""Variable by which processes that a command started are known."""
LIMIT_S, LIMIT_BYTES = 60.0, 12 << 30
patience = 1.0
"""Factor of the limits of time, for a machine that others use, too."""


@dataclass(frozen=True)
class Answer:
    """What a command gave.

    Args:
        code: Exit code; None where it did not end in time, negative where a signal ended it.
        text: Standard output and error.
        seconds: Time it took.
    """

    code: int | None
    text: str
    seconds: float

    @property
    def traced(self) -> bool:
        """Whether it ended in a trace, be it one that is kept in a file, or by a signal that is a defect's."""
        defects = (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE)
        said = ("Traceback (most recent call last)", "a defect of the suite")
        return any(words in self.text for words in said) or self.code in defects

    @property
    def sentence(self) -> str:
        """Its last line that says something."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        return lines[-1] if lines else ""


@dataclass(frozen=True)
class Case:
    """One hostile input.

    Args:
        kind: What it is: YAML, NIfTI, ...
        name: What is wrong with it.
        prepare: Writes it into an empty folder and gives the command.
        right: Whether a command that ended well took the content for what it is; called with the folder.
        refused: Whether a command that refused did so without loss to others; called with the folder.
    """

    kind: str
    name: str
    prepare: Callable[[Path], list[str]]
    right: Callable[[Path], bool] = lambda folder: False
    refused: Callable[[Path], bool] = lambda folder: True


def ask(
    arguments: list[str],
    folder: Path,
    before: Callable[[], None] | None = None,
    limit_s: float = LIMIT_S,
    kill_after_s: float | None = None,
    modules: Path | None = None,
) -> Answer:
    """Run a command of the suite in a forked process whose working folder is `folder`.

    Args:
        arguments: Command line.
        folder: Working folder.
        before: Called in the process first, to stage a fault.
        limit_s: Seconds until it counts as hung.
        kill_after_s: Seconds until it is killed; processes that it started are then left as they are.
        modules: File for the names of what the process had imported at its end.
    """
    started = time.monotonic()
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _child(arguments, folder, writing, before, modules)
    os.close(writing)
    os.set_blocking(reading, False)
    code: int | None = None
    parts: list[bytes] = []
    while time.monotonic() - started < limit_s * patience:
        _drain(reading, parts)
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            break
        if kill_after_s is not None and time.monotonic() - started > kill_after_s:
            os.kill(child, signal.SIGKILL)  # the process alone: those that it started have to end by themselves
        time.sleep(0.01)
    seconds = time.monotonic() - started
    if kill_after_s is None:
        _end_group(child, reap=code is None)
    _drain(reading, parts)
    os.close(reading)
    return Answer(code, b"".join(parts).decode(errors="replace"), seconds)


def _drain(handle: int, parts: list[bytes]) -> None:
    with contextlib.suppress(BlockingIOError):
        while part := os.read(handle, 1 << 16):
            parts.append(part)


def _end_group(leader: int, *, reap: bool) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
    if reap:
        os.waitpid(leader, 0)


def _child(
    arguments: list[str], folder: Path, writing: int, before: Callable[[], None] | None, modules: Path | None
) -> None:
    code = 1
    try:
        os.setpgid(0, 0)
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        os.chdir(folder)
        sys.path.insert(0, str(folder))  # as `python -m` does
        os.environ["RENAL_CACHE"] = str(folder / "cache")
        os.environ[MARK] = str(folder)
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
        # Processes that the command starts read the module that was started, as those of a command line do.
        sys.modules["__main__"] = importlib.import_module("experiments.__main__")
        if before is not None:
            before()
        from experiments.cli import main

        try:
            code = main(arguments)
            if modules is not None:
                modules.write_text("\n".join(sys.modules))
            atexit._run_exitfuncs()
            threading._shutdown()  # type: ignore[attr-defined]
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def judge(case: Case, folder: Path) -> tuple[Outcome, Answer]:
    """Run one hostile input and say what became of it."""
    folder.mkdir(parents=True)
    (folder / f"{CANARY}.py").write_text(_CANARY_CODE)
    inside = folder / "a" / "b" / "c" / "work"  # names that climb land beside it
    inside.mkdir(parents=True)
    (inside / f"{CANARY}.py").write_text(_CANARY_CODE)
    arguments = case.prepare(inside)
    before = _listing(folder, inside)
    answer = ask(arguments, inside)
    if any(folder.rglob("CANARY")) or _listing(folder, inside) != before:
        return "executed", answer
    if answer.code is None:
        return "hung", answer
    if answer.traced:
        return "trace", answer
    if answer.code < 0:
        return "silent", answer
    if answer.code != 0:
        return ("refused" if answer.sentence and case.refused(inside) else "silent"), answer
    return ("read right" if case.right(inside) else "silent"), answer


_CANARY_CODE = """
from pathlib import Path
Path("CANARY").touch()
from lightning.pytorch.callbacks import Callback
class E(Callback):
    pass
def f(*args, **kwargs):
    pass
"""


def _listing(folder: Path, inside: Path) -> set[Path]:
    """Everything below a folder but its own working folder, and what climbing names would write above."""
    own = {path for path in folder.rglob("*") if not path.is_relative_to(inside) and "__pycache__" not in path.parts}
    return own | set(folder.parent.glob("escaped*")) | set(Path("/tmp").glob("escaped*"))
