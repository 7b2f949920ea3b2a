"""Reports that were written already, kept one by one: a kill loses nothing, and nothing is paid for twice."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from datamodules.errors import DataError
from experiments.generation.systems import WritingJob
from experiments.runs.console import counted
from lightning_modules.networks.joint.decoding import Written

UNFINISHED = "unfinished.jsonl"
"""What a system of this machine wrote before its folder is finished."""


class Journal:
    """Lines of JSON, each on the disk before the next is begun; safe for the threads of one process.

    A line that a kill cut off is dropped. Of several lines with one key the last counts.

    Args:
        path: The file; it is made with its folder at the first line.

    Raises:
        DataError: if a line before the last is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self.lines = self._read()

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with self.path.open("r+b") as file:
                file.truncate(whole)
        lines = []
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                lines.append(dict(json.loads(line)))
            except (ValueError, TypeError) as error:
                raise DataError(
                    f"{self.path.name} in {self.path.parent.name} is damaged at line {number}; remove that line, and "
                    "its report is written again."
                ) from error
        return lines

    def find(self) -> dict[str, dict[str, Any]]:
        """The last line of every key."""
        with self._lock:
            return {line["key"]: line for line in self.lines}

    def add(self, key: str, content: Mapping[str, Any]) -> None:
        """Put a line on the disk.

        Raises:
            DataError: if the disk is full.
        """
        line = {"key": key, **content}
        with self._lock:
            try:
                self._append(json.dumps(line).encode() + b"\n")
            except OSError as error:
                raise DataError(
                    f"{self.path.name} could not be written in {self.path.parent.name}: {error.strerror or error}. "
                    "Free some space, then run the same command again."
                ) from error
            self.lines.append(line)

    def _append(self, line: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            before = file.tell()
            try:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.truncate(self.path, before)  # half a line would spoil the next
                raise


def in_batches(
    job: WritingJob,
    write: Callable[[range], Sequence[Written]],
    at_once: int | None = None,
    prompts: Sequence[str] | None = None,
) -> list[Written]:
    """Reports of all kidneys of a job, each batch kept as soon as it is written; an interrupted job goes on there.

    Args:
        job: The kidneys; `job.folder` holds what was written before, under the same settings.
        write: Writes the reports of the kidneys at some places.
        at_once: Kidneys of a batch; as many as `job.options.batch` by default.
        prompts: Prompt of each kidney, where it depends on more than `job.scope`.
    """
    size = at_once or job.options.batch
    journal = None if job.folder is None else Journal(job.folder / UNFINISHED)
    found = {} if journal is None else journal.find()
    asked = prompts or [""] * len(job.kidneys)
    keys = [
        f"{job.scope}-{place}-{hashlib.sha256(prompt.encode()).hexdigest()[:16]}" for place, prompt in enumerate(asked)
    ]
    reports: list[Written] = []
    with counted("reports") as show:
        for start in range(0, len(keys), size):
            places = range(start, min(start + size, len(keys)))
            own = [keys[place] for place in places]
            if all(key in found for key in own):
                reports += [_restored(found[key]) for key in own]
            else:
                torch.manual_seed(job.options.seed + start)  # a batch is drawn alike whatever was written before it
                written = list(write(places))
                if journal is not None:
                    for key, report in zip(own, written, strict=True):
                        journal.add(key, report._asdict())
                reports += written
            show(len(reports), len(keys))
    return reports


def _restored(line: Mapping[str, Any]) -> Written:
    return Written(*(line[name] for name in Written._fields))
