"""Commands killed at a random time and given again: equal results, nothing twice in MLflow, no process left behind."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from tests.chaos import sandbox
from tests.chaos.flows import FLOWS, Flow
from tests.chaos.sandbox import MARK, Answer, Outcome, ask
from tests.chaos.stage import Stage

GRACE_S = 8.0
"""Seconds in which processes that a killed command started have to end."""
LIMIT_S = 900.0


@dataclass(frozen=True)
class Whole:
    """What a command leaves that nobody disturbs.

    Args:
        files: Digests of its results.
        logged: What MLflow holds.
        seconds: Time that it takes.
    """

    files: dict[str, str]
    logged: Counter[tuple[str, ...]]
    seconds: float


def _shared_memory() -> Path | None:
    """A file system that is another than that of temporary files."""
    place = Path("/dev/shm")
    other = place.is_dir() and place.stat().st_dev != Path(tempfile.gettempdir()).stat().st_dev
    return place if other and os.access(place, os.W_OK) else None


def _digest(path: Path) -> str:
    """Content of a file; of a Parquet table its rows, without times of day, of a checkpoint its weights."""
    if path.suffix == ".ckpt":
        weights = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
        found = hashlib.sha256()
        for name, value in sorted(weights.items()):
            found.update(name.encode() + value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return found.hexdigest()
    if path.suffix == ".parquet":
        frame = pd.read_parquet(path)
        keep = [name for name in frame.columns if not name.endswith(("seconds", "_s"))]
        frame = frame[keep]
        if "position" in frame:  # features are kept in the order in which they were measured
            frame = frame.sort_values("position")
        return hashlib.sha256(frame.to_csv(index=False).encode()).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _results(flow: Flow, folder: Path, runs: Path) -> dict[str, str]:
    found = {}
    for pattern in flow.results:
        for root in (folder, runs):
            found |= {path.relative_to(root).as_posix(): _digest(path) for path in root.glob(pattern) if path.is_file()}
    return found


def _logged(runs: Path) -> Counter[tuple[str, ...]]:
    """What MLflow holds: runs by name and status, points of metrics by run, name and step, each with its number."""
    if not (runs / "mlflow.db").is_file():
        return Counter()
    # How busy the machine was stands by the second, which no two runs have in common.
    measured = "key NOT LIKE 'system/%'"
    points = f"SELECT name, key, CAST(step AS TEXT) FROM metrics JOIN runs USING (run_uuid) WHERE {measured}"
    with contextlib.closing(sqlite3.connect(runs / "mlflow.db")) as store:
        held = store.execute("SELECT name, status FROM runs").fetchall() + store.execute(points).fetchall()
    return Counter(_unnumbered(entry) for entry in held)


def _unnumbered(entry: tuple[str, ...]) -> tuple[str, ...]:
    """An entry without the number of its trial: a trial that was killed is tried again under the next free one."""
    name, *rest = entry
    step = ["" if rest[0].startswith("sweep/") else rest[1]] if len(rest) == 2 else []
    return (re.sub(r"-trial-\d+", "-trial", name), rest[0], *step)


def _orphans(folder: Path) -> list[int]:
    """Processes that a command in `folder` started and that live."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={folder}\0".encode() in (place / "environ").read_bytes():
                found.append(int(place.name))
    return found


def _end_orphans(folder: Path) -> list[str]:
    """What outlived the grace, each by its state and its command; they are ended."""
    ends = time.monotonic() + GRACE_S * sandbox.patience
    while _orphans(folder) and time.monotonic() < ends:
        time.sleep(0.1)
    left = []
    for process in _orphans(folder):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
            left.append(f"{state} {command[:160]}")
            os.kill(process, signal.SIGKILL)
    return left


def run_kills(
    stage: Stage, root: Path, seed: int, count: int, kinds: set[str]
) -> Iterator[tuple[str, str, Outcome, Answer]]:
    """Kill each command in turn at a random time of its life and give it again.

    Args:
        stage: What the commands read.
        root: Folder for what they write.
        seed: Seed of the times.
        count: Number of kills.
        kinds: Names of the commands; all where it is empty.

    Yields:
        Kind, name, outcome and what the second command said: `read right` where results are equal and MLflow holds
        each run and point once; `silent` where not; `stuck` where the second command failed; `hung` where a process
        was left.
    """
    rng = np.random.default_rng([seed, 200])
    shared = _shared_memory()
    place = Path(tempfile.mkdtemp(prefix="chaos-", dir=shared)) if shared else root
    expected: dict[str, Whole] = {}
    try:
        flows = [flow for flow in FLOWS if not kinds or flow.name in kinds]
        for number in range(count if flows else 0):
            flow = flows[number % len(flows)]
            if flow.name not in expected:
                folder, runs = _fresh(root, place, f"whole-{flow.name}")
                answer = ask(flow.prepare(stage, folder, runs), folder, limit_s=LIMIT_S)
                found = _results(flow, folder, runs)
                if answer.code != 0 or not found:
                    raise RuntimeError(f"{flow.name} left nothing undisturbed: {answer.text[-2000:]}")
                expected[flow.name] = Whole(found, _logged(runs), answer.seconds)
                _remove(folder, runs)
            yield _one_kill(stage, flow, expected[flow.name], root, place, number, rng)
    finally:
        if shared:
            shutil.rmtree(place, ignore_errors=True)


def _fresh(root: Path, place: Path, name: str) -> tuple[Path, Path]:
    folder, runs = root / name / "work", place / name / "runs"
    for path in (folder, runs):
        path.mkdir(parents=True)
    return folder, runs


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder.parent, ignore_errors=True)


def _one_kill(
    stage: Stage,
    flow: Flow,
    whole: Whole,
    root: Path,
    place: Path,
    number: int,
    rng: np.random.Generator,
) -> tuple[str, str, Outcome, Answer]:
    folder, runs = _fresh(root, place, f"kill-{number}")
    after = float(rng.uniform(0.05, 0.95)) * whole.seconds
    arguments = flow.prepare(stage, folder, runs)
    ask(arguments, folder, limit_s=LIMIT_S, kill_after_s=after)
    left = _end_orphans(folder)
    answer = ask(arguments, folder, limit_s=LIMIT_S)
    found, logged = _results(flow, folder, runs), _logged(runs)
    different = {name for name in whole.files.keys() | found.keys() if whole.files.get(name) != found.get(name)}
    twice, lost = logged - whole.logged, whole.logged - logged
    name = f"after {after:.1f} of {whole.seconds:.1f} s"
    outcome: Outcome = "read right"
    if answer.traced:
        outcome = "trace"
    elif answer.code != 0:
        outcome = "stuck"
    elif left:
        outcome, name = "hung", f"{name}: {len(left)} processes were left: {left}"
    elif different or twice or lost:
        what = {"other files": different, "twice in MLflow": twice, "not in MLflow": lost}
        said = ", ".join(f"{len(those)} {kind} {sorted(those)[:3]}" for kind, those in what.items() if those)
        outcome, name = "silent", f"{name}: {said}"
    _remove(folder, runs)
    return flow.name, name, outcome, answer
