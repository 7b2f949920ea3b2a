"""`make submit`: a command, or the stages of a whole study in their order, given to SLURM."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.errors import DataError
from experiments.front_door.options import STUDY, taken_by
from experiments.runs.console import say

_CLUSTER = Path(__file__).parents[2] / "cluster"
_TRAIN, _POINTS, _ONE = "train.sbatch", "points.sbatch", "one.sbatch"


@dataclass(frozen=True)
class SlurmJob:
    """One job, or an array of jobs, of a study.

    Args:
        name: What later jobs call it.
        script: File under `cluster/`.
        words: Target of the Makefile and its options.
        after: Jobs that must have succeeded.
        array: Number of jobs in the array; 0 for a single job.
    """

    name: str
    script: str
    words: tuple[str, ...]
    after: tuple[str, ...] = ()
    array: int = 0

    def command(self, flags: Sequence[str], numbers: dict[str, str]) -> list[str]:
        """The call of sbatch.

        Args:
            flags: Further flags of sbatch.
            numbers: What SLURM called the jobs before, by name.
        """
        command = ["sbatch", "--parsable", "--export=ALL", *flags]
        if self.array:
            command.append(f"--array=0-{self.array - 1}")
        if self.after:
            # A job whose dependency failed would else wait for ever.
            command += [f"--dependency=afterok:{':'.join(numbers[name] for name in self.after)}"]
            command.append("--kill-on-invalid-dep=yes")
        return [*command, str(_CLUSTER / self.script), *self.words]


def study(words: Sequence[str], points: int) -> list[SlurmJob]:
    """The jobs of a study in an order in which they can be submitted.

    Image and text stage side by side, the alignment after both, the curve of every task as an array of jobs after it,
    zero-shot classification beside them, and the report at the end.

    Args:
        words: Options as NAME=value; each job takes those that its command knows.
        points: Jobs of each curve.

    Raises:
        DataError: if stages are named, which are all of them.
    """
    given = dict(word.split("=", 1) for word in words)
    if "STAGES" in given:
        raise DataError(f"STAGES={given['STAGES'][:40]} was given; a study submits every stage, so leave it out.")
    tasks = [task for task in given.get("TASKS", "malignancy").split(",") if task]

    def options(target: str, **own: str) -> tuple[str, ...]:
        # Of a NAME that is there twice make would take the last.
        taken = {name: value for name, value in given.items() if name not in own and taken_by(target, name)}
        return (target, *(f"{name}={value}" for name, value in (own | taken).items()))

    stages = [SlurmJob(name, _TRAIN, options("pretrain", STAGES=name)) for name in ("image", "text")]
    stages.append(SlurmJob("alignment", _TRAIN, options("pretrain", STAGES="alignment"), ("image", "text")))
    curves = [SlurmJob(f"curve-{task}", _POINTS, options("curve", TASK=task), ("alignment",), points) for task in tasks]
    zero = SlurmJob("zeroshot", _ONE, options("zeroshot"), ("alignment",))
    last = SlurmJob("report", _ONE, options("report"), (*(job.name for job in curves), zero.name))
    return [*stages, *curves, zero, last]


def submit(
    job: str = "pretrain",
    nodes: int = 1,
    points: int = 4,
    sbatch: str = "",
    dry_run: bool = False,
    extra: list[str] | None = None,
) -> int:
    """Give a training command, or a whole study, to SLURM; jobs are queued again at their time limit.

    By make, as `make submit JOB=finetune NODES=2 TASK=rfs`: the options of the job travel along. `JOB=study` submits
    every stage with its dependencies: image and text, then the alignment, then zero-shot and the curves of TASKS=, each
    an array of jobs that share its points, then the report. A stage that is finished passes at once.

    Args:
        job: The training command (pretrain, finetune, curve), or study.
        nodes: Machines of each training job.
        points: Jobs of each curve of a study, of one GPU each.
        sbatch: Further flags of sbatch for every job, such as `--partition=gpu --account=renal`.
        dry_run: Whether the calls of sbatch are printed and nothing is submitted.
        extra: Options of the job as NAME=value.
    """
    if not _CLUSTER.is_dir():
        raise DataError("The folder cluster is not here; `submit` works in a checkout of the suite.")
    words = tuple(word.removeprefix("--") for word in extra or ())  # make takes settings without dashes
    jobs = study(words, points) if job == STUDY else [SlurmJob(job, _TRAIN, (job, *words))]
    flags = shlex.split(sbatch)
    numbers: dict[str, str] = {}
    for entry in jobs:
        own = [f"--nodes={nodes}"] if entry.script == _TRAIN else []
        command = entry.command([*flags, *own], numbers)
        if dry_run:
            numbers[entry.name] = f"<{entry.name}>"
            say(shlex.join(command))
            continue
        numbers[entry.name] = _submitted(command, numbers)
        say(f"{entry.name}: job {numbers[entry.name]}")
    return 0


def _submitted(command: Sequence[str], earlier: dict[str, str]) -> str:
    """SLURM's number of a job; where it refuses one, those before it are taken back."""
    # The job calls make itself, which would read the options of this call once more.
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKE_TARGETS")}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise DataError("sbatch was not found; run `submit` on a login node of a SLURM cluster.") from None
    number = done.stdout.strip().partition(";")[0]
    if done.returncode == 0 and re.fullmatch(r"\d+", number):
        return number
    if earlier:
        subprocess.run(["scancel", *earlier.values()], check=False)
    said = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
    taken_back = " and those before it were taken back" if earlier else ""
    raise DataError(f"SLURM refused a job{taken_back}: {said}")
