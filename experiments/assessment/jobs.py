"""Studies that wait for the models: one at a time, in memory, forgotten after a while."""

from __future__ import annotations

import logging
import queue
import secrets
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from datamodules.errors import DataError

WAITING, RUNNING, DONE, REFUSED = "waiting", "running", "done", "refused"
_LOG = logging.getLogger(__name__)


@dataclass
class Job:
    """One study.

    Args:
        work: Assesses it, told how to say what it does; returns the results by file name.
        folder: Where the study lies until it is assessed.
        key: What a browser calls it; cannot be guessed.
        state: waiting, running, done or refused.
        step: What is being done, in words.
        reason: Why it was refused.
        results: Contents by file name.
        began: When it was sent, and `ended` when it was finished, in seconds of the monotonic clock.
    """

    work: Callable[[Callable[[str], None]], Mapping[str, bytes]]
    folder: Path
    key: str = field(default_factory=lambda: secrets.token_urlsafe(18))
    state: str = WAITING
    step: str = "waiting for the study before"
    reason: str = ""
    results: Mapping[str, bytes] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None


class Jobs:
    """A queue with one worker.

    Args:
        kept_s: Seconds for which results are held in memory.
        most: Number of studies that may wait.
    """

    def __init__(self, kept_s: float = 1800.0, most: int = 4) -> None:
        self.kept_s, self.most = kept_s, most
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._queue: queue.Queue[Job] = queue.Queue()
        threading.Thread(target=self._run, name="assessments", daemon=True).start()

    def folder(self) -> Path:
        """A new folder for a study, readable by this user alone.

        Raises:
            DataError: if too many wait.
        """
        self._forget_old()
        with self._lock:
            waiting = sum(job.state in (WAITING, RUNNING) for job in self._jobs.values())
        if waiting >= self.most:
            raise DataError(f"{waiting} studies are being assessed already; send this one when they are done.")
        return Path(tempfile.mkdtemp(prefix="renal-study-"))

    def add(self, job: Job) -> Job:
        """Put a study into the queue."""
        with self._lock:
            self._jobs[job.key] = job
        self._queue.put(job)
        return job

    def get(self, key: str) -> Job | None:
        """The study of a key; None where it is not known, or forgotten."""
        self._forget_old()
        return self._jobs.get(key)

    def forget(self, key: str) -> None:
        """Drop a study with its results; one that runs is dropped when it ends."""
        with self._lock:
            self._jobs.pop(key, None)

    def close(self) -> None:
        """Remove what still waits from the disk."""
        with self._lock:
            jobs, self._jobs = list(self._jobs.values()), {}
        for job in jobs:
            shutil.rmtree(job.folder, ignore_errors=True)

    def _forget_old(self) -> None:
        now = time.monotonic()
        with self._lock:
            for key, job in list(self._jobs.items()):
                if job.ended is not None and now - job.ended > self.kept_s:
                    del self._jobs[key]

    def _run(self) -> None:
        while True:
            job = self._queue.get()
            if job.key in self._jobs:
                self._assess(job)
            shutil.rmtree(job.folder, ignore_errors=True)

    def _assess(self, job: Job) -> None:
        job.state = RUNNING

        def say(step: str) -> None:
            job.step = step

        try:
            job.results = job.work(say)
            job.state = DONE
        except DataError as error:
            job.reason, job.state = " ".join(str(error).split()), REFUSED
        except Exception as error:  # the server goes on; its console says what happened
            _LOG.error("A study was not assessed: %s", "".join(traceback.format_exception(error)[-2:]).strip())
            job.reason, job.state = f"The study was not assessed: {type(error).__name__}; see the console.", REFUSED
        job.ended = time.monotonic()
