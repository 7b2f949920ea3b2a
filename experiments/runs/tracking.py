"""MLflow: where runs are logged, how they are named, and what is said of each."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from datamodules.files import read_json_mapping, replacing, write_json
from experiments.runs.buffered_logger import BufferedMLFlowLogger, SilentLogger
from experiments.runs.console import say
from experiments.runs.locks import held
from experiments.runs.logged_model import NOTE, PARENT
from experiments.runs.outbox import SPOOL, Outbox, reason
from lightning_modules.core.distributed import is_main_rank

RUN_FILE = "mlflow.json"
KIND, CURVE_LINE, CURVE = "kind", "curve line", "curve"
"""Tag of what a run is, where it is no training; its value of an encoder's line of a curve; and the tag of that with
the id of the curve. A line stands beside the curve and not beneath it: MLflow shows nothing of runs that are folded."""
_NAMED_STORE = os.environ.get("MLFLOW_TRACKING_URI", "")
"""Read once: MLflow writes the store of the last logger there, which a later run in another folder must not take."""


os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # the outbox tries again by itself; seven take minutes
_WRITABLE = re.compile(r"[a-z][a-z0-9+.-]*://|databricks", re.IGNORECASE)
_MLFLOW_LOCK, _MAKING_LOCK = ".mlflow.lock", ".mlflow.db.lock"
_outboxes: dict[Path, Outbox] = {}


def tracking_uri(runs: Path) -> str:
    """The MLflow store: `MLFLOW_TRACKING_URI` where the user set it, else a SQLite file in the run folder.

    Raises:
        DataError: if the user set a folder of files, which MLflow does not write any more.
    """
    if _NAMED_STORE and (_NAMED_STORE.startswith("file:") or not _WRITABLE.match(_NAMED_STORE)):
        raise DataError(
            "MLFLOW_TRACKING_URI names a folder of files, which MLflow does not take as a store any more; leave it "
            "unset for a database in RUNS, or name a database (sqlite:///runs.db) or a server (http://host:5000)."
        )
    return _NAMED_STORE or f"sqlite:///{runs / 'mlflow.db'}"


def store_client(runs: Path) -> MlflowClient:
    """A client of the store.

    A database in the run folder is made whole beside its place first: MLflow makes no further use of one that a kill
    left with some of its tables.
    """
    if not _NAMED_STORE:
        _make_database(runs / "mlflow.db")
    return MlflowClient(tracking_uri(runs))


def _make_database(path: Path) -> None:
    if path.is_file():
        return
    with held(path.with_name(_MAKING_LOCK)):
        if not path.is_file():
            with replacing(path) as part:
                MlflowClient(f"sqlite:///{part}").search_experiments(max_results=1)


def store_environment() -> dict[str, str | None]:
    """The store as a process that this one starts must find it in its environment; None where the user set none."""
    return {"MLFLOW_TRACKING_URI": _NAMED_STORE or None}


def git_commit() -> str:
    """The commit of the code, with `-dirty` when files were changed; `unknown` outside a repository of its own."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():  # installed, perhaps below a repository of the user's
        return "unknown"
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def suite_version() -> str:
    """The version of the suite; `unknown` where its code is used without being installed."""
    try:
        return version("renal-vlm-suite")
    except PackageNotFoundError:
        return "unknown"


def cohort_tags(cohort: Cohort) -> dict[str, str]:
    """What a run says of its data; no path and no identifier of a patient."""
    info = cohort.info
    return {
        "cohort": info.name,
        "cohort_hash": cohort.table_hash,
        "split_hash": cohort.split_hash,
        "intensity": info.intensity,
        "phantom": str(info.phantom).lower(),
        "git_commit": git_commit(),
        "suite_version": suite_version(),
    }


def _datasets(tags: Mapping[str, str]) -> list[DatasetInput]:
    """The cohort of a run's tags as MLflow's pages show data: name, digest, what it is. No place of it is told."""
    if "cohort_hash" not in tags:
        return []
    told = json.dumps({key: tags[key] for key in ("split_hash", "intensity", "phantom") if key in tags})
    data = Dataset(tags["cohort"], tags["cohort_hash"][:36], "cohort", json.dumps({"name": tags["cohort"]}), None, told)
    return [DatasetInput(data, [InputTag(MLFLOW_DATASET_CONTEXT, "training and test")])]


def short_hash(content: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that name a set of settings."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:8]


def experiment_id(client: MlflowClient, name: str, runs: Path) -> str:
    """The experiment of that name, made where it does not exist; its artifacts lie where the runs are now."""
    location = None if _NAMED_STORE else (runs.resolve() / "mlartifacts" / name).as_uri()
    found = client.get_experiment_by_name(name)
    if found is None:
        return str(client.create_experiment(name, artifact_location=location))
    if location is not None and found.artifact_location != location:
        _move_artifacts(runs)
    return str(found.experiment_id)


def _move_artifacts(runs: Path) -> None:
    """Tell a store whose RUNS was moved or copied where its artifacts are now; MLflow keeps absolute places only."""
    with closing(sqlite3.connect(runs / "mlflow.db", timeout=60)) as store, store:
        for identifier, name, old in store.execute("SELECT experiment_id, name, artifact_location FROM experiments"):
            new = (runs.resolve() / "mlartifacts" / name).as_uri()
            if old == new or not old.endswith(new[len(runs.resolve().as_uri()) :]):
                continue  # nothing to do, or not a place that was chosen here
            store.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (new, identifier))
            store.execute(
                "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
                "WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?",
                (new, len(old) + 1, identifier, len(old), old),
            )
            store.execute(
                "UPDATE logged_models SET artifact_location = ? || substr(artifact_location, ?) "
                "WHERE experiment_id = ? AND substr(artifact_location, 1, ?) = ?",
                (new, len(old) + 1, identifier, len(old), old),
            )


@contextmanager
def best_effort(what: str) -> Iterator[None]:
    """Go on where the store fails: a warning says what is not in it; results lie in files."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # a store fails in the ways of SQLite, of servers, of disks and of networks
        say(f"WARNING: {what} is not in MLflow ({reason(error)}); its files are written, and the run goes on.")


def parent_run(runs: Path, experiment: str, name: str, tags: Mapping[str, str]) -> str | None:
    """The run of that name that nothing is trained in, found or made; of the curve that its tags name, if any.

    Returns:
        Its MLflow id; None, with a warning, where the store fails.
    """
    identifier: str | None = None
    with best_effort(f"The parent run {name}"):
        identifier = _parent_run(runs, experiment, name, tags)
    return identifier


def _parent_run(runs: Path, experiment: str, name: str, tags: Mapping[str, str]) -> str:
    client = store_client(runs)
    with held(runs / _MLFLOW_LOCK):  # two processes that both find none would make two
        identifier = experiment_id(client, experiment, runs)
        within = f" and tags.{CURVE} = '{tags[CURVE]}'" if CURVE in tags else ""
        found = client.search_runs([identifier], f"attributes.run_name = '{name}'{within}", max_results=1)
        if found:
            return str(found[0].info.run_id)
        run = client.create_run(identifier, run_name=name, tags=dict(tags))
        client.log_inputs(run.info.run_id, _datasets(tags))
        client.set_terminated(run.info.run_id)
        return str(run.info.run_id)


def shared_run(runs: Path, cohort: Cohort, experiment: str, name: str, **same: str) -> str | None:
    """The parent run of all runs on the same cohort and split that agree in some settings, found or made.

    Args:
        runs: Folder of all runs.
        cohort: The cohort.
        experiment: MLflow experiment.
        name: How its name begins; a hash of what its children share follows.
        same: Settings in which they agree.

    Returns:
        Its MLflow id; None where the store fails.
    """
    tags = cohort_tags(cohort)
    shared = {key: tags[key] for key in ("cohort", "cohort_hash", "split_hash")} | same
    return parent_run(runs, experiment, f"{name}-{short_hash(shared)}", shared)


def make_logger(
    runs: Path, folder: Path, experiment: str, name: str, tags: Mapping[str, str], parent: str | None = None
) -> MLFlowLogger:
    """The logger of a run; a run that is resumed goes on in the same MLflow run.

    The store is asked by a thread: where it is locked, damaged or away, the run goes on and is logged later.

    Args:
        runs: Folder of all runs, which holds the store.
        folder: Folder of this run; its MLflow id is kept there.
        experiment: MLflow experiment.
        name: Name of the run.
        tags: What is said of it.
        parent: MLflow id of the parent run.

    Returns:
        The logger; on ranks other than 0 one that logs nothing.
    """
    uri = tracking_uri(runs)
    if not is_main_rank():
        return SilentLogger()

    def connect() -> tuple[MlflowClient, str, bool]:
        client = store_client(runs)
        with held(runs / _MLFLOW_LOCK):
            identifier = experiment_id(client, experiment, runs)
        known = read_json_mapping(folder / RUN_FILE) if (folder / RUN_FILE).is_file() else {}
        run_id = known.get("run_id") if known.get("store") == _store_name(uri) else None
        if run_id is not None and _running(client, run_id):
            return client, run_id, True
        nested = {PARENT: parent} if parent else {}
        run = client.create_run(identifier, run_name=name, tags={**tags, **nested, "run_dir": _relative(folder, runs)})
        run_id = str(run.info.run_id)
        client.log_inputs(run_id, _datasets(tags))
        write_json(folder / RUN_FILE, {"run_id": run_id, "store": _store_name(uri)})
        return client, run_id, False

    if (before := _outboxes.pop(folder.resolve(), None)) is not None:
        before.close()
    outbox = _outboxes[folder.resolve()] = Outbox(folder, connect)
    outbox.run_id()
    return BufferedMLFlowLogger(outbox, experiment)


def _running(client: MlflowClient, run_id: str) -> bool:
    """Set a run going again; False where the store has it no more."""
    try:
        client.update_run(run_id, status="RUNNING")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True


def outbox_of(folder: Path) -> Outbox:
    """What sends the entries of a run that this process started."""
    return _outboxes[folder.resolve()]


def send_kept(runs: Path, folder: Path, experiment: str, name: str, tags: Mapping[str, str]) -> None:
    """Send what a finished run could not send before; does nothing where there is nothing."""
    if is_main_rank() and (folder / SPOOL).is_file():
        make_logger(runs, folder, experiment, name, tags).experiment.set_terminated()


def log_results(
    logger: MLFlowLogger, metrics: Mapping[str, float], note: str, files: Iterable[Path], step: int = 0
) -> None:
    """Give MLflow the results of a command, and end its run.

    Args:
        logger: The run's logger, from `make_logger`.
        metrics: Values by name.
        note: What the results are of, in a sentence.
        files: Tables and pictures; none that shows a text or an image of a patient.
        step: Where the values stand in MLflow's charts; of a point of a curve the percentage of the labels.
    """
    client, run_id = logger.experiment, str(logger.run_id)
    log_metrics(client, run_id, metrics, step)
    client.set_tag(run_id, NOTE, note)
    for path in files:
        client.log_artifact(run_id, str(path))
    client.set_terminated(run_id)


def log_metrics(client: MlflowClient | Outbox, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
    """Log many metrics at once; one by one each costs a transaction of the store."""
    now = int(1000 * time.time())
    entries = [Metric(name, value, now, step) for name, value in metrics.items()]
    for start in range(0, len(entries), 1000):  # the most that MLflow takes at a time
        client.log_batch(run_id, metrics=entries[start : start + 1000])


def _store_name(uri: str) -> str:
    return hashlib.sha256(uri.encode()).hexdigest()[:8]


def _relative(folder: Path, runs: Path) -> str:
    return folder.resolve().relative_to(runs.resolve()).as_posix()


def _runs_of_id(runs: Path, wanted: str) -> list[Run]:
    try:
        client = store_client(runs)
        known = [experiment.experiment_id for experiment in client.search_experiments()]
        return list(client.search_runs(known, f"attributes.run_id = '{wanted}'"))
    except Exception as error:  # a store fails in the ways of SQLite, of servers, of disks and of networks
        raise DataError(
            f"MLflow's store cannot be asked for RUN={wanted} ({reason(error)}); name the folder of the run instead."
        ) from error


def find_run(runs: Path, wanted: str) -> Path:
    """The folder of a run, given as a folder or as an MLflow id.

    Raises:
        DataError: if it is neither.
    """
    if (Path(wanted) / "run.json").is_file():
        return Path(wanted)
    if re.fullmatch(r"[0-9a-f]{32}", wanted):
        for run in _runs_of_id(runs, wanted):
            if "run_dir" in run.data.tags:
                folder = runs / run.data.tags["run_dir"]
                if folder.resolve().is_relative_to(runs.resolve()):
                    return folder
                raise DataError(
                    f"RUN={wanted} lies outside of {runs.name} by what the store says; name the run's folder itself."
                )
    raise DataError(
        f"RUN={wanted} is neither a run folder (with run.json) nor the MLflow id of a run in {runs.name}; "
        "copy one from `make ui` or from the runs folder."
    )
