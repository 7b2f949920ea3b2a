"""Asking a server about every kidney: several at a time, each answer kept at once, nothing paid for twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from rich.progress import Progress

from datamodules.errors import DataError
from datamodules.files import write_json
from experiments.generation.chat_client import ChatClient, NotAskedError, StoppedError, UnansweredError
from experiments.generation.chat_server import Pace, Server
from experiments.generation.journal import Journal
from experiments.generation.spending import Prices, Spending
from experiments.generation.systems import WritingJob
from experiments.runs.console import progress_bar, say
from experiments.runs.locks import held
from lightning_modules.core.distributed import is_main_rank

ANSWERS = "answers"
"""Folder beside those of the systems with every answer that was ever given, by the hash of its question."""
_NOTHING: dict[str, Any] = {"text": "", "tokens": 0, "truncated": None}
_SHOW_EVERY_S, _TELL_EVERY_S = 1.0, 20.0

Request = Callable[[int], tuple[str, dict[str, Any]]]
"""From the place of a kidney to the hash of its question, and the question."""


@dataclass(frozen=True)
class ServerTerms:
    """How a server is asked about many kidneys.

    Args:
        pace: How fast and patiently.
        prices: What tokens cost.
        give_up: Kidneys without an answer, one after the other, after which the run ends.
        allowed_failures: Kidneys that may be left without an answer, and get an empty report.
    """

    pace: Pace
    prices: Prices
    give_up: int
    allowed_failures: int = 0


def ask_all(job: WritingJob, server: Server, terms: ServerTerms, request: Request) -> list[dict[str, Any]]:
    """The answer of a server about every kidney, as lines of its journal: text, tokens, truncated, model.

    Args:
        job: The kidneys; the journal lies beside `job.folder`, so that no other TAG pays for the same again.
        server: Where is asked.
        terms: How.
        request: What.

    Raises:
        DataError: if more than the allowed have no answer, saying how many and why; the others are kept.
    """
    if job.folder is None:
        raise DataError(f"System {job.system} needs a folder that its answers are kept in.")
    path = job.folder.parent / ANSWERS / f"{job.system}.jsonl"
    with held(path.with_suffix(".lock")):  # a second process would pay for the same
        asking = _Asking(job, ChatClient(server, terms.pace), terms, Journal(path))
        try:
            asking.run(request)
        finally:
            asking.tell()
        return asking.answers()


class _Asking:
    """One run over the kidneys of a job."""

    def __init__(self, job: WritingJob, client: ChatClient, terms: ServerTerms, journal: Journal) -> None:
        self.job, self.client, self.terms, self.journal = job, client, terms, journal
        self.known = {key for key, line in journal.find().items() if "text" in line}
        self.keys: list[str] = []
        self.asked: set[str] = set()
        self.reasons: list[str] = []
        self.in_a_row = 0
        self.stopped: StoppedError | None = None
        self.started = self.told = time.monotonic()
        self.shown = 0.0

    def run(self, request: Request) -> None:
        """Ask about whatever has no answer yet; what is under way when this ends is waited for and kept."""
        total, at_once = len(self.job.kidneys), self.terms.pace.concurrency
        waiting: set[Future[None]] = set()
        with progress_bar() as bar, ThreadPoolExecutor(at_once) as pool:
            bar.disable = not is_main_rank()
            bar.add_task(self.job.system, total=total)
            try:
                for place in range(total):
                    key, body = request(place)
                    self.keys.append(key)
                    if key not in self.known and key not in self.asked:
                        self.asked.add(key)
                        waiting.add(pool.submit(self._one, key, body))
                    if len(waiting) >= at_once:
                        waiting = self._finished(waiting)
                    if self.stopped:
                        return
                    self._show(bar, place + 1 - len(waiting))
                while waiting and not self.stopped:
                    waiting = self._finished(waiting)
                    self._show(bar, total - len(waiting))
            except KeyboardInterrupt:
                say(f"Waiting for {len(waiting)} answers that are under way, since they are paid for.")
                raise
            finally:
                self.client.stop()

    def _one(self, key: str, body: dict[str, Any]) -> None:
        """Ask about one kidney and keep the answer, or why there is none."""
        try:
            answer = self.client.ask(body, key)
        except NotAskedError:
            raise
        except UnansweredError as error:
            self.journal.add(key, {"failed": str(error), "spent": error.spent})
            raise
        self.journal.add(key, answer._asdict())

    def _finished(self, waiting: set[Future[None]]) -> set[Future[None]]:
        """Wait for the next answers; the questions that are still under way."""
        done, rest = wait(waiting, return_when=FIRST_COMPLETED)
        for future in done:
            try:
                future.result()
                self.in_a_row = 0
            except StoppedError as error:
                self.stopped = error
            except UnansweredError as error:
                self.reasons.append(str(error))
                self.in_a_row += 1
        if self.in_a_row >= self.terms.give_up and self.stopped is None:
            self.stopped = StoppedError(
                f"{self.in_a_row} kidneys in a row got no answer (the last: {self.reasons[-1]})."
            )
        if self.stopped:
            self.client.stop()
        return rest

    def _spent(self) -> Spending:
        own = set(self.keys)
        return Spending.of((line for line in list(self.journal.lines) if line["key"] in own), self.terms.prices)

    def _show(self, bar: Progress, done: int) -> None:
        """Show how far it is and what was spent; as a line now and then where there is no terminal for a bar."""
        now, total = time.monotonic(), len(self.job.kidneys)
        if now - self.shown < _SHOW_EVERY_S and done < total:
            return
        self.shown = now
        described = f"{self.job.system}, {self._spent().sentence()}"
        bar.update(bar.task_ids[0], completed=done, description=described)
        if not bar.console.is_terminal and now - self.told > _TELL_EVERY_S:
            self.told = now
            left = (now - self.started) / max(1, done) * (total - done)
            say(f"{described}: {done} of {total}, about {left / 60:.0f} min left")

    def tell(self) -> None:
        """Print and write what the reports of this job cost in all, earlier runs included."""
        spent, folder = self._spent(), self.job.folder
        assert folder is not None
        fold = "" if self.job.options.fold is None else f"-fold{self.job.options.fold}"
        write_json(folder / f"usage{fold}.json", spent.to_dict())
        say(f"{self.job.system}: {spent.sentence()}, for {len(self.asked)} kidneys asked about now and those before.")

    def answers(self) -> list[dict[str, Any]]:
        """The answers in the order of the kidneys.

        Raises:
            DataError: if some are missing.
        """
        found = {key: line for key, line in self.journal.find().items() if "text" in line}
        total = len(self.job.kidneys)
        missing = total - sum(key in found for key in self.keys)
        # Who stops early has not looked whether the rest was answered by an earlier run.
        count = f"{'' if len(self.keys) == total else 'Up to '}{missing} of {total} kidneys"
        kept = f"{count} have no report by {self.job.system} yet; the others are kept, and the same command"
        if self.stopped:
            raise DataError(f"{self.stopped} {kept} goes on there.") from self.stopped
        if missing > self.terms.allowed_failures:
            raise DataError(
                f"{kept} asks for those again (the last reason: {self.reasons[-1]}). To go on without them, allow them "
                f"an empty report: ARGS=\"--arguments='{{{self.job.system}.allowed_failures: {missing}}}'\"."
            )
        if missing:
            say(f"{missing} kidneys without an answer have an empty report (the last reason: {self.reasons[-1]}).")
        return [found.get(key, _NOTHING) for key in self.keys]
