"""Runs the points of a curve: each once, over processes and machines, so that one that fails costs no other."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Protocol

from filelock import SoftFileLease

from callbacks.failure import failure_sentence
from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from experiments.finetuning.finetune import curve_run, finetune
from experiments.finetuning.point import Point
from experiments.runs.console import say
from experiments.runs.folders import folds_of
from experiments.runs.launch import DONE, check_finished
from experiments.runs.locks import LOCK, lease, taken
from experiments.runs.workers import Died, Workers, environments
from lightning_modules.core.errors import ModelError

WAIT_S = 5.0
HELD, RAN = "held", "ran"


@dataclass(frozen=True)
class Failed:
    """A point that could not be run, and why."""

    sentence: str


Outcome = str | Failed
_CLAIMS: dict[Path, SoftFileLease] = {}
"""Claims that this process asked for; one that another machine holds must be asked again by the same object."""


class _Pool(Protocol):
    @property
    def idle(self) -> bool: ...

    @property
    def busy(self) -> bool: ...

    def submit(self, task: Point) -> None: ...

    def wait(self) -> list[tuple[Point, Outcome | Died]]: ...


class _Here:
    """This process in the place of several."""

    def __init__(self, work: Callable[[Point], Outcome]) -> None:
        self._work = work
        self._task: Point | None = None

    @property
    def idle(self) -> bool:
        return self._task is None

    @property
    def busy(self) -> bool:
        return self._task is not None

    def submit(self, task: Point) -> None:
        self._task = task

    def wait(self) -> list[tuple[Point, Outcome | Died]]:
        assert self._task is not None
        task, self._task = self._task, None
        return [(task, self._work(task))]


def run_point(data: Path, point: Point) -> Outcome:
    """Run a point unless another process has it.

    Returns:
        `RAN`, also for one that was finished meanwhile; `HELD` where another process runs it; or what went wrong. The
        trace of a defect is printed.
    """
    folder = point.folder(Cohort.load(data))
    claim = _CLAIMS.setdefault(folder, lease(folder / LOCK))
    if not taken(claim):
        return HELD
    try:
        finetune(point, report=False)
    except (DataError, ModelError) as error:
        return Failed(str(error))
    except Exception as error:
        sentence = failure_sentence(error)
        if sentence is None:
            traceback.print_exc()
        return Failed(
            sentence or f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        )
    finally:
        claim.release()
    return RAN


def _run_in_step(point: Point) -> Outcome:
    finetune(point, report=False)
    return RAN


def run_points(points: list[Point], cohort: Cohort, jobs: int, ranks: int = 1) -> dict[str, str]:
    """Run every point that is not finished.

    A point is claimed by a file in its folder, so that several machines on one disk may work on one curve; the points
    that another one runs are waited for, and taken over if it falls silent.

    Args:
        points: The points.
        cohort: The cohort.
        jobs: Processes side by side; 1 runs the points in this one.
        ranks: Processes of one training run. Several run the points in step, one after the other: none may pass over
            what another one runs, so nothing is claimed, and the first failure ends all of them.

    Returns:
        Names of the points that failed, with the reason.

    Raises:
        DataError: before anything is run, if a finished point has another configuration.
    """
    waiting = deque(point for point in points if not _finished(point, cohort))
    say(f"{len(points)} points, of which {len(points) - len(waiting)} are finished already.")
    if not waiting:
        return {}
    curve_run(points[0], cohort)  # made here, once, so that no two processes make it
    if ranks > 1:
        return _work_off(_Here(_run_in_step), waiting, points)
    work = partial(run_point, points[0].data)
    if jobs == 1 or len(waiting) == 1:
        return _work_off(_Here(work), waiting, points)
    waiting = deque(replace(point, devices="1") for point in waiting)
    points = [replace(point, devices="1") for point in points]
    with Workers(work, environments(min(jobs, len(waiting)))) as pool:
        return _work_off(pool, waiting, points)


def _work_off(pool: _Pool, waiting: deque[Point], points: list[Point]) -> dict[str, str]:
    started, total, ran = monotonic(), len(waiting), 0
    held: list[Point] = []
    failed: dict[str, str] = {}
    told = False
    while waiting or held or pool.busy:
        while waiting and pool.idle:
            point = waiting.popleft()
            if not told:
                gone = monotonic() - started
                left = f", about {_minutes(gone / ran * (total - ran))} left" if ran else ""
                say(f"Point {points.index(point) + 1} of {len(points)}: {point.name}{left}")
            pool.submit(point)
        if pool.busy:
            for point, outcome in pool.wait():
                if outcome == HELD:
                    held.append(point)
                    continue
                ran += 1
                if outcome != RAN:
                    assert isinstance(outcome, Failed | Died)
                    failed[point.name] = outcome.sentence
                    say(f"{point.name} failed: {outcome.sentence}")
        else:
            if not told:
                say(f"{len(held)} points are run by other processes; waiting for them, or for these to fall silent.")
            told = True
            sleep(WAIT_S)
            waiting, held = deque(held), []
    return failed


def _finished(point: Point, cohort: Cohort) -> bool:
    if not (point.folder(cohort) / DONE).is_file():
        return False
    return all(check_finished(point.launch(cohort, fold)) for fold in folds_of(cohort))


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
