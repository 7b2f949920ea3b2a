"""Runs the points of a curve: each once, over processes and machines, so that one that fails costs no other."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import monotonic, sleep

from filelock import SoftFileLease

from callbacks.failure import failure_sentence
from datamodules.cohort.cohort import Cohort
from datamodules.engine import Lost, Needs, Pool, in_this_process, open_pool
from datamodules.errors import DataError
from experiments.finetuning.finetune import curve_run, finetune
from experiments.finetuning.point import Point
from experiments.runs.console import configure_output, counted, say
from experiments.runs.folders import folds_of
from experiments.runs.launch import DONE, check_finished
from experiments.runs.locks import LOCK, lease, taken
from experiments.runs.tracking import store_environment
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
    waiting = [point for point in points if not _finished(point, cohort)]
    say(f"{len(points)} points, of which {len(points) - len(waiting)} are finished already.")
    if not waiting:
        return {}
    curve_run(points[0], cohort)  # made here, once, so that no two processes make it
    if ranks > 1:  # in step, in this process
        return _work_off(open_pool(_run_in_step, 1, local=True), waiting, _said())
    workers, work = min(jobs, len(waiting)), partial(run_point, points[0].data)
    if in_this_process(workers):
        return _work_off(open_pool(work, 1), waiting, _said())
    waiting = [replace(point, devices="1") for point in waiting]
    needs = Needs(gpu=True, environment=store_environment(), begin=configure_output)
    return _work_off(open_pool(work, workers, needs), waiting, counted("points"))


@contextmanager
def _said() -> Iterator[Callable[[int, int], None]]:
    """A line in the place of a bar, where the run that goes on here draws one of its own."""
    started = monotonic()

    def show(done: int, total: int) -> None:
        left = (monotonic() - started) / done * (total - done)
        say(f"{done} of {total} points, about {left / 60:.0f} min left.")

    yield show


def _work_off(
    opened: AbstractContextManager[Pool],
    waiting: list[Point],
    progress: AbstractContextManager[Callable[[int, int], None]],
) -> dict[str, str]:
    failed: dict[str, str] = {}
    total, done, told = len(waiting), 0, False
    with opened as pool, progress as show:
        while waiting:
            held: list[Point] = []
            for point, outcome in pool.run(waiting):
                if outcome == HELD:
                    held.append(point)
                    continue
                done += 1
                if isinstance(outcome, Failed | Lost):
                    failed[point.name] = outcome.sentence
                    say(f"{point.name} failed: {outcome.sentence}")
                show(done, total)
            if held and not told:
                say(f"{len(held)} points are run by other processes; waiting for them, or for these to fall silent.")
                told = True
            if held and len(held) == len(waiting):
                sleep(WAIT_S)
            waiting = held
    return failed


def _finished(point: Point, cohort: Cohort) -> bool:
    if not (point.folder(cohort) / DONE).is_file():
        return False
    return all(check_finished(point.launch(cohort, fold)) for fold in folds_of(cohort))
