"""What a run says to MLflow: kept beside the run first, sent by a thread, and never in the way of a training."""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from experiments.runs.console import say
from experiments.runs.logged_model import ExportedModel, log_model

SPOOL = "mlflow.spool.jsonl"
"""Entries of a run that MLflow has not taken yet, one JSON object a line."""
_PATIENCE_S = 30.0
"""Seconds that a call waits for a store that works; one that does not is not waited for."""
_LAST_TRY_S = 5.0
_RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)
_IDLE_S = 2.0
_REFUSED = ("INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST", "INVALID_STATE")
"""Errors of MLflow that the same entry would meet again for ever."""
_METRICS_AT_ONCE, _PARAMS_AT_ONCE = 1000, 100

Entry = dict[str, Any]
Connect = Callable[[], tuple[MlflowClient, str, bool]]


class Outbox:
    """Takes the calls of an MLflow client that writes, and returns at once where the store is locked, damaged or away.

    An entry is appended to a file in the run's folder, and a thread sends what stands there, in order, again and again
    until it is taken. What a process leaves is sent by the next one that starts the same run. Points of metrics that
    the store has from before this process are not written twice.

    Args:
        folder: Folder of the run.
        connect: Finds or makes the run; gives the client, the run's id and whether it was there before.
    """

    def __init__(self, folder: Path, connect: Connect) -> None:
        self.folder, self._connect = folder, connect
        self._entries = deque(_read(folder / SPOOL))
        self._earlier = len(self._entries)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._connection: tuple[MlflowClient, str, bool] | None = None
        self._trouble: str | None = None
        self._tries, self._hurry, self._closed = 0, False, False
        self._seen: dict[str, tuple[int, set[str]]] = {}
        with self._changed:
            self._start()

    def run_id(self) -> str | None:
        """The run's id; None where the store did not give one yet."""
        with self._changed:
            self._changed.wait_for(lambda: self._connection or self._trouble, timeout=_PATIENCE_S)
            return None if self._connection is None else self._connection[1]

    def log_batch(
        self,
        run_id: str | None = None,
        metrics: Iterable[Metric] = (),
        params: Iterable[Param] = (),
        *,
        fitting: bool = False,
        **_: Any,
    ) -> None:
        """Note metrics and parameters, without waiting.

        Args:
            run_id: Not asked for: an outbox has one run.
            metrics: Points.
            params: Parameters.
            fitting: Whether the points are of training steps, which a resumed run takes again.
        """
        points = [[point.key, float(point.value), int(point.timestamp), int(point.step)] for point in metrics]
        if points:
            self._put({"do": "metrics", "points": points, "fitting": fitting}, wait=False)
        named = [[param.key, param.value] for param in params]
        if named:
            self._put({"do": "params", "params": named}, wait=False)

    def log_param(self, run_id: str | None, key: str, value: Any) -> None:
        """Note a parameter."""
        self.log_batch(params=[Param(key, str(value))])

    def set_tag(self, run_id: str | None, key: str, value: Any) -> None:
        """Note a tag."""
        self._put({"do": "tag", "key": key, "value": str(value)})

    def log_dict(self, run_id: str | None, content: Mapping[str, Any], name: str) -> None:
        """Note plain data that become an artifact."""
        self._put({"do": "dict", "content": dict(content), "name": name})

    def log_artifact(self, run_id: str | None, path: str | Path) -> None:
        """Note a file of the run's folder that becomes an artifact."""
        self._put({"do": "artifact", "path": os.path.relpath(path, self.folder)})

    def log_model(self, run_id: str | None, model: ExportedModel) -> None:
        """Note a folder within the run's folder that becomes a model."""
        self._put({"do": "model", "path": model.folder, "loader": model.loader, "signature": dict(model.signature)})

    def set_terminated(self, run_id: str | None = None, status: str = "FINISHED") -> None:
        """Note how the run ended, and say so where MLflow does not have all of it."""
        self._put({"do": "status", "status": status}, wait=False)
        if not self.drain():
            say(
                f"WARNING: {len(self._entries)} entries of {self.folder.name} are not in MLflow yet "
                f"({self._trouble or 'its store does not answer'}); "
                f"they are kept in {SPOOL} beside the run, and the next start of the same run sends them."
            )

    def drain(self) -> bool:
        """Wait for everything to be taken, long where the store works, else for one more try; whether it was."""
        with self._changed:
            limit = _PATIENCE_S if self._trouble is None else _LAST_TRY_S
            self._hurry = True
            self._start()
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._entries or (self._trouble and limit == _PATIENCE_S), limit)
            return not self._entries

    def close(self) -> None:
        """Give up the file to another outbox of the same run, which sends what is left."""
        self.drain()
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _put(self, entry: Entry, wait: bool = True) -> None:
        with self._changed:
            self._keep(entry)
            self._entries.append(entry)
            self._start()
            self._changed.notify_all()
            if wait and self._trouble is None:
                self._changed.wait_for(lambda: not self._entries or self._trouble, timeout=_PATIENCE_S)

    def _keep(self, entry: Entry) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / SPOOL).open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:  # a full disk ends the run where it loses results, not here
            if self._trouble is None:
                say(f"WARNING: {SPOOL} cannot be written ({error.strerror}); what MLflow does not take may be lost.")

    def _start(self) -> None:
        if self._thread is None and (self._entries or self._connection is None):
            self._thread = threading.Thread(target=self._send_all, name="mlflow", daemon=True)
            self._thread.start()

    def _send_all(self) -> None:
        while not self._closed:
            try:
                if self._connection is None:
                    connection = self._connect()
                    with self._changed:
                        self._connection = connection
                        self._changed.notify_all()
                while self._entries and not self._closed:
                    self._send(self._entries[0])
                    with self._changed:
                        self._entries.popleft()
                        self._earlier = max(0, self._earlier - 1)
                        if not self._entries:
                            (self.folder / SPOOL).unlink(missing_ok=True)
            except Exception as error:  # a store fails in the ways of SQLite, of servers, of disks and of networks
                self._wait_after(error)
                continue
            with self._changed:
                self._trouble, self._tries = None, 0
                self._changed.notify_all()
                if not self._entries and not self._changed.wait_for(lambda: bool(self._entries), timeout=_IDLE_S):
                    self._thread = None
                    return

    def _wait_after(self, error: Exception) -> None:
        """Say once what is wrong, and wait before the next try, unless somebody waits for it."""
        with self._changed:
            if self._trouble is None:
                say(
                    f"WARNING: MLflow's store does not take the log of {self.folder.name} ({reason(error)}); the run "
                    f"goes on, and what it logs is kept in {SPOOL} beside it and sent when the store works again."
                )
            self._trouble = reason(error)
            seconds = _RETRY_S[min(self._tries, len(_RETRY_S) - 1)]
            self._tries, self._hurry = self._tries + 1, False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._hurry or self._closed, timeout=seconds)

    def _send(self, entry: Entry) -> None:
        assert self._connection is not None
        client, run_id, _ = self._connection
        try:
            _ACTIONS[entry["do"]](self, client, run_id, entry)
        except MlflowException as error:
            if error.error_code not in _REFUSED:
                raise
            say(f"WARNING: MLflow refused an entry of {self.folder.name} ({entry['do']}: {reason(error)}).")

    def _metrics(self, client: MlflowClient, run_id: str, entry: Entry) -> None:
        points = [point for point in entry["points"] if not self._known(client, run_id, point, entry["fitting"])]
        for start in range(0, len(points), _METRICS_AT_ONCE):
            found = [Metric(*point) for point in points[start : start + _METRICS_AT_ONCE]]
            client.log_batch(run_id, metrics=found)
        if self._earlier:  # of a process that is no more: what this one measures again is the same
            for key, value, _, step in points:
                self._note(key, step, value)

    def _known(self, client: MlflowClient, run_id: str, point: list[Any], fitting: bool) -> bool:
        """Whether the store has a point from before this process: of a training step, by its number alone."""
        key, value, _, step = point
        assert self._connection is not None
        if key not in self._seen:
            self._seen[key] = (-1, set())
            for known in client.get_metric_history(run_id, key) if self._connection[2] else ():
                self._note(key, known.step, known.value)
        last, values = self._seen[key]
        return step < last or (step == last and (fitting or repr(float(value)) in values))

    def _note(self, key: str, step: int, value: float) -> None:
        last, values = self._seen[key]
        if step >= last:
            self._seen[key] = (step, (values if step == last else set()) | {repr(float(value))})

    def _params(self, client: MlflowClient, run_id: str, entry: Entry) -> None:
        for start in range(0, len(entry["params"]), _PARAMS_AT_ONCE):
            found = [Param(*param) for param in entry["params"][start : start + _PARAMS_AT_ONCE]]
            client.log_batch(run_id, params=found)

    def _artifact(self, client: MlflowClient, run_id: str, entry: Entry) -> None:
        if (path := self.folder / entry["path"]).exists():  # kept entries may speak of files that are no more
            client.log_artifact(run_id, str(path))

    def _model(self, client: MlflowClient, run_id: str, entry: Entry) -> None:
        if (self.folder / entry["path"]).exists():
            model = ExportedModel(entry["path"], entry["loader"], entry["signature"])
            log_model(client, run_id, self.folder, model)


_ACTIONS: dict[str, Callable[[Outbox, MlflowClient, str, Entry], Any]] = {
    "metrics": Outbox._metrics,
    "params": Outbox._params,
    "artifact": Outbox._artifact,
    "model": Outbox._model,
    "tag": lambda _, client, run_id, entry: client.set_tag(run_id, entry["key"], entry["value"]),
    "dict": lambda _, client, run_id, entry: client.log_dict(run_id, entry["content"], entry["name"]),
    "status": lambda _, client, run_id, entry: client.set_terminated(run_id, entry["status"]),
}


def _read(path: Path) -> list[Entry]:
    """The entries of a file; a last line that a kill cut short is left out."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    whole, _, cut = text.rpartition("\n")
    if cut:
        path.write_text(whole + "\n" if whole else "", encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines()]


def reason(error: BaseException) -> str:
    """What a store says of its trouble: the first line, without the statement that a database was asked."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip(".")
