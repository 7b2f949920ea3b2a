"""MLflow: where runs are logged, how they are named, and what is said of each."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger
from mlflow.entities import Metric, Run
from mlflow.tracking import MlflowClient

from datamodules.cohort import Cohort
from datamodules.errors import DataError
from datamodules.files import read_json, write_json
from experiments.buffered_logger import BufferedMLFlowLogger, SilentLogger
from experiments.console import is_main_rank
from experiments.locks import held

RUN_FILE = "mlflow.json"
_NAMED_STORE = os.environ.get("MLFLOW_TRACKING_URI", "")
"""Read once: MLflow writes the store of the last logger there, which a later run in another folder must not take."""


def tracking_uri(runs: Path) -> str:
    """The MLflow store: `MLFLOW_TRACKING_URI` where the user set it, else a SQLite file in the run folder."""
    return _NAMED_STORE or f"sqlite:///{runs / 'mlflow.db'}"


def store_environment() -> dict[str, str | None]:
    """The store as a process that this one starts must find it in its environment; None where the user set none."""
    return {"MLFLOW_TRACKING_URI": _NAMED_STORE or None}


def git_commit() -> str:
    """The commit of the code, with `-dirty` when files were changed; `unknown` outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    folder = Path(__file__).parent
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


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
    }


def short_hash(content: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that name a set of settings."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:8]


def experiment_id(client: MlflowClient, name: str, runs: Path) -> str:
    """The experiment of that name, made where it does not exist; its artifacts lie beside the runs."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    local = not _NAMED_STORE
    location = (runs.resolve() / "mlartifacts" / name).as_uri() if local else None
    return str(client.create_experiment(name, artifact_location=location))


def parent_run(runs: Path, experiment: str, name: str, tags: Mapping[str, str]) -> str:
    """The parent run of that name, found or made.

    Returns:
        Its MLflow id.
    """
    with held(runs / ".mlflow.lock"):  # two processes that both find none would make two
        client = MlflowClient(tracking_uri(runs))
        identifier = experiment_id(client, experiment, runs)
        found = client.search_runs([identifier], f"attributes.run_name = '{name}'", max_results=1)
        if found:
            return str(found[0].info.run_id)
        run = client.create_run(identifier, run_name=name, tags=dict(tags))
        client.set_terminated(run.info.run_id)
        return str(run.info.run_id)


def shared_run(runs: Path, cohort: Cohort, experiment: str, name: str, **same: str) -> str:
    """The parent run of all runs on the same cohort and split that agree in some settings, found or made.

    Args:
        runs: Folder of all runs.
        cohort: The cohort.
        experiment: MLflow experiment.
        name: How its name begins; a hash of what its children share follows.
        same: Settings in which they agree.

    Returns:
        Its MLflow id.
    """
    tags = cohort_tags(cohort)
    shared = {key: tags[key] for key in ("cohort", "cohort_hash", "split_hash")} | same
    return parent_run(runs, experiment, f"{name}-{short_hash(shared)}", shared)


def make_logger(
    runs: Path, folder: Path, experiment: str, name: str, tags: Mapping[str, str], parent: str | None = None
) -> MLFlowLogger:
    """The logger of a run; a run that is resumed goes on in the same MLflow run.

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
    client = MlflowClient(uri)
    identifier = experiment_id(client, experiment, runs)
    known = read_json(folder / RUN_FILE) if (folder / RUN_FILE).is_file() else {}
    run_id = known.get("run_id") if known.get("store") == _store_name(uri) else None
    if run_id is None:
        nested = {"mlflow.parentRunId": parent} if parent else {}
        run = client.create_run(identifier, run_name=name, tags={**tags, **nested, "run_dir": _relative(folder, runs)})
        run_id = str(run.info.run_id)
        write_json(folder / RUN_FILE, {"run_id": run_id, "store": _store_name(uri)})
    else:
        client.update_run(run_id, status="RUNNING")
    return BufferedMLFlowLogger(experiment_name=experiment, tracking_uri=uri, run_id=run_id)


def log_metrics(client: MlflowClient, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
    """Log many metrics at once; one by one each costs a transaction of the store."""
    now = int(1000 * time.time())
    entries = [Metric(name, value, now, step) for name, value in metrics.items()]
    for start in range(0, len(entries), 1000):  # the most that MLflow takes at a time
        client.log_batch(run_id, metrics=entries[start : start + 1000])


def _store_name(uri: str) -> str:
    return hashlib.sha256(uri.encode()).hexdigest()[:8]


def _relative(folder: Path, runs: Path) -> str:
    return folder.resolve().relative_to(runs.resolve()).as_posix()


def find_run(runs: Path, wanted: str) -> Path:
    """The folder of a run, given as a folder or as an MLflow id.

    Raises:
        DataError: if it is neither.
    """
    if (Path(wanted) / "run.json").is_file():
        return Path(wanted)
    if re.fullmatch(r"[0-9a-f]{32}", wanted):
        client = MlflowClient(tracking_uri(runs))
        for experiment in client.search_experiments():
            found: list[Run] = list(client.search_runs([experiment.experiment_id], f"attributes.run_id = '{wanted}'"))
            if found and "run_dir" in found[0].data.tags:
                return runs / found[0].data.tags["run_dir"]
    raise DataError(
        f"RUN={wanted} is neither a run folder (with run.json) nor the MLflow id of a run in {runs.name}; "
        "copy one from `make ui` or from the runs folder."
    )
