"""One training run from its configuration files to its finished folder: fitted, tested, resumable."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only

from callbacks.divergence import DivergedError
from callbacks.interruption import goes_on_from
from datamodules.errors import DataError
from datamodules.files import read_json_mapping, replacing, write_json
from datamodules.plain_yaml import read_yaml
from experiments.runs.buffered_logger import BufferedMLFlowLogger
from experiments.runs.configuration import Configuration
from experiments.runs.console import say
from experiments.runs.failed_runs import clear_failed, mark_failed
from experiments.runs.locks import training
from experiments.runs.run_data import RUN_COMMAND, RunData, check_same_data, recorded_hashes, run_data
from experiments.runs.suite_cli import SuiteCLI, read_checkpoint
from experiments.runs.system_metrics import measured
from experiments.runs.tracking import make_logger, outbox_of, send_kept
from experiments.runs.trainer import PREVIOUS
from lightning_modules.core.distributed import is_main_rank
from lightning_modules.core.errors import ModelError
from lightning_modules.core.suite_module import SuiteModule, check_checkpoint, class_name

DONE = "DONE"
CONFIG = "config.yaml"
LAST = "last.ckpt"
_RESUMED_FROM = ("state_dict", "epoch", "global_step", "loops", "optimizer_states", "lr_schedulers", "callbacks")
"""What a checkpoint holds from which a run goes on."""
_RESUMED = (LAST, PREVIOUS[LAST], "best.ckpt")
# Where and how a run computes and reads may change between a start and its resumption; what it computes may not.
_FREE = (
    "encoder.channels_last",
    "encoder.checkpointing",
    "encoder.compile",
    "text.base",
    "text.compute_dtype",
    "text.checkpointing",
    # What differs in the data is said of the data.
    "data_sha256",
    "run_dir",
    "trainer.default_root_dir",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.log_every_n_steps",
    "trainer.benchmark",
    "trainer.enable_progress_bar",
    "data.init_args.device_batch",
    "data.init_args.root",
    "data.init_args.num_workers",
    "data.init_args.shards_url",
    "data.init_args.cache_dir",
    "data.init_args.cache_size",
    # Embeddings are told apart by their encoder's fingerprint.
    "data.init_args.embeddings",
    # The weights that a run starts from are told apart by their hash; where they lie may change.
    "model.init_args.pretrained",
    "model.init_args.text_pretrained",
)


@dataclass(frozen=True)
class Launch:
    """Everything that names and configures a run.

    Args:
        configuration: What is trained, on what, how and where to.
        folder: Folder of the run.
        runs: Folder of all runs.
        experiment: MLflow experiment.
        name: Name of the run.
        tags: What MLflow says of it.
        command: The command and arguments that `make resume` calls again.
        parent: MLflow id of the parent run.
        sources: Exported weights that it owes something to without loading them, as embeddings of a text encoder.
    """

    configuration: Configuration
    folder: Path
    runs: Path
    experiment: str
    name: str
    tags: Mapping[str, str]
    command: Mapping[str, Any]
    parent: str | None = None
    sources: tuple[Path, ...] = ()


@dataclass(frozen=True)
class FinishedRun:
    """What a run leaves behind.

    Args:
        logger: Logger for further metrics; it logs nothing on ranks other than 0.
        best_score: Validation metric of the best checkpoint.
        model: The module with the best checkpoint's weights.
    """

    logger: MLFlowLogger
    best_score: float
    model: SuiteModule


def train(launch: Launch, *, test: bool, callbacks: Sequence[Callback] = ()) -> FinishedRun:
    """Fit a run, going on from its last checkpoint where there is one, and validate and test it.

    What is tested are the weights that the module names with `tested`: the best by validation, or the last.

    Args:
        launch: The run.
        test: Whether there is anybody to test; otherwise the best checkpoint is validated alone.
        callbacks: Further callbacks, which are no part of the configuration.

    Raises:
        DataError: if the folder holds a run with another configuration or on other data, another process trains in it,
            or the run would start from weights that have seen whom it tests.
        ModelError: if a checkpoint does not fit.
        DivergedError: if the loss is no number any more; the folder is marked, and free for another configuration.
    """
    with training(launch.folder):
        return _train(launch, test, callbacks)


def _train(launch: Launch, test: bool, callbacks: Sequence[Callback]) -> FinishedRun:
    cli = launch.configuration.build()
    resolved = cli.resolved_config()
    data = run_data(cli, launch.sources, test, launch.command)
    claim(launch, cli, data)
    checkpoints = launch.folder / "checkpoints"
    resume = resumed_from(checkpoints, cli.model)
    tags = {**launch.tags, **data.tags()}
    logger = make_logger(launch.runs, launch.folder, launch.experiment, launch.name, tags, launch.parent)
    if is_main_rank():
        logger.experiment.log_dict(logger.run_id, _without_paths(resolved), "config.yaml")
    cli.trainer.logger = logger
    cli.trainer.callbacks[:0] = callbacks  # type: ignore[attr-defined]
    try:
        with goes_on_from(*(checkpoints / name for name in _RESUMED)), _machine_measured(launch.folder):
            cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=resume, weights_only=True)
        if resume is not None and resume.name != LAST:  # it may have been of the last epoch: nothing was left to train
            cli.trainer.save_checkpoint(checkpoints / LAST)
    except DivergedError as error:
        mark_failed(launch.folder, error)
        raise
    if isinstance(logger, BufferedMLFlowLogger):
        logger.fitting = False
    checkpoint = cli.trainer.checkpoint_callback
    # A validation metric that was never defined (one class only) leaves no best epoch; the last one stands in.
    last = str(checkpoints / LAST)
    best = last if cli.model.tested == "last" else checkpoint.best_model_path or last  # type: ignore[union-attr]
    # Validated first: thresholds and risk groups of the test are cut on the validation patients of the same weights.
    for evaluate in (cli.trainer.validate, *([cli.trainer.test] if test else [])):
        evaluate(cli.model, datamodule=cli.datamodule, ckpt_path=best, verbose=False, weights_only=True)
    if is_main_rank():
        (checkpoints / PREVIOUS[LAST]).unlink(missing_ok=True)
    cli.trainer.strategy.barrier()  # what rank 0 wrote of the test is read by every rank
    score = checkpoint.best_model_score  # type: ignore[union-attr]
    return FinishedRun(logger, float("nan") if score is None else float(score), cli.model)


def _machine_measured(folder: Path) -> AbstractContextManager[None]:
    """Measure this machine for MLflow; that of rank 0."""
    return measured(outbox_of(folder), folder / RUN_COMMAND) if is_main_rank() else nullcontext()


def resumed_from(checkpoints: Path, module: SuiteModule) -> Path | None:
    """The checkpoint that a run goes on from: the last one, or the first whole one before it, which is said.

    Args:
        checkpoints: Folder of the run's checkpoints.
        module: What is trained.

    Returns:
        The checkpoint; None where there is none to go on from.

    Raises:
        ModelError: if a whole checkpoint is of another class or contract.
    """
    found = [path for path in (checkpoints / name for name in _RESUMED) if path.is_file()]
    damaged: list[str] = []
    for path in found:
        try:
            content = read_checkpoint(path)
            absent = [name for name in _RESUMED_FROM if name not in content]
            if absent:
                raise ModelError(f"Checkpoint {path.name} holds no {', '.join(absent)}; no run goes on from it.")
        except ModelError as error:
            damaged.append(str(error))
            continue
        check_checkpoint(content, module.class_path(), module.contract)
        if damaged or path.name != LAST:
            reason = " ".join(damaged) or f"{LAST} is not there."
            say(f"WARNING: {reason} The run goes on from {path.name}, after epoch {content['epoch'] + 1}.")
        return path
    if damaged:
        say(f"WARNING: {' '.join(damaged)} No older checkpoint is whole; the run begins anew.")
    return None


@rank_zero_only
def mark_done(folder: Path, content: Mapping[str, Any]) -> None:
    """Write DONE, the last file of a run, with the hash of its data."""
    write_json(folder / DONE, {**content, **recorded_hashes(folder)})


def check_finished(launch: Launch) -> bool:
    """Whether the run is finished with the very configuration and data that are asked for.

    Raises:
        DataError: if the folder holds a run with another configuration, or on other data.
    """
    if not (launch.folder / DONE).is_file():
        return False
    _check_same(launch, launch.configuration.parsed)
    send_kept(launch.runs, launch.folder, launch.experiment, launch.name, launch.tags)
    return True


def claim(launch: Launch, cli: SuiteCLI, data: RunData) -> None:
    """Make the folder this run's own, or check that it already is.

    Args:
        launch: The run.
        cli: Its parser.
        data: Its data.

    Raises:
        DataError: if the folder holds a run with another configuration or on other data, the run would write
            elsewhere, or would start from weights that have seen whom it tests; nothing is written then.
    """
    asked = Path(str(cli.config["run_dir"]))
    if asked != launch.folder:
        raise DataError(
            f"Run {launch.name} was told by its flags or files to write to {asked.name}; its "
            "folder follows from RUNS= and its name. Leave run_dir out."
        )
    path = launch.folder / CONFIG
    same = path.is_file() and not _differing(launch, cli.resolved_config()) and data.lies_in(launch.folder)
    clear_failed(launch.folder, same=same)
    if path.is_file():
        _check_same(launch, cli)
    data.refuse_leaks()
    if path.is_file():
        return
    if not is_main_rank():
        return
    resolved = {**cli.resolved_config(), "data_sha256": data.used.sha256}
    data.write(launch.folder)  # before the configuration, by which the other ranks see that the folder is claimed
    with replacing(path) as temporary:
        temporary.write_text(yaml.safe_dump(resolved, sort_keys=False), encoding="utf-8")
    write_json(launch.folder / RUN_COMMAND, dict(launch.command))


def _check_same(launch: Launch, cli: SuiteCLI) -> None:
    differing = _differing(launch, cli.resolved_config())
    if differing:
        raise DataError(
            f"Run {launch.name} exists with another configuration ({'; '.join(differing[:4])}). "
            "Finished work is not overwritten: give this one a name of its own with TAG=, or delete the folder."
        )
    check_same_data(launch.folder, launch.name, cli)


def _differing(launch: Launch, resolved: Mapping[str, Any]) -> list[str]:
    stored = read_yaml(launch.folder / CONFIG, f"{CONFIG} of the run {launch.name}")
    if not isinstance(stored, dict):
        raise DataError(
            f"{CONFIG} of the run {launch.name} is damaged: it holds no settings. Restore it, or delete the folder."
        )
    return differences(identity(stored), identity(resolved))


def flatten(content: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys."""
    if not isinstance(content, Mapping):
        return {prefix: content}
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat |= flatten(value, f"{prefix}.{name}" if prefix else str(name))
    return flat


def identity(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """What a run computes, by dotted key: its configuration without where and how it is computed and read.

    A class is known by its name, which no two of the suite share, so that its file may move.
    """
    flat = {key: value for key, value in flatten(resolved).items() if key not in _FREE}
    return {key: class_name(str(value)) if key.endswith("class_path") else value for key, value in flat.items()}


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The settings in which two identities differ, in words."""
    return [
        f"{key}: {stored.get(key)} there, {wanted.get(key)} here"
        for key in sorted({*stored, *wanted})
        if stored.get(key) != wanted.get(key)
    ]


def _without_paths(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration for MLflow, which shows no path of this machine."""
    content: dict[str, Any] = copy.deepcopy(dict(resolved))
    content["run_dir"] = Path(str(content["run_dir"])).name
    arguments = content["data"]["init_args"]
    for key in ("root", "cache_dir", "embeddings", "corpus"):
        if arguments.get(key):
            arguments[key] = Path(str(arguments[key])).name
    for key in ("pretrained", "text_pretrained"):
        if content["model"]["init_args"].get(key):
            content["model"]["init_args"][key] = Path(str(content["model"]["init_args"][key])).name
    if content.get("text"):
        content["text"]["base"] = Path(content["text"]["base"]).name
    content["trainer"]["default_root_dir"] = content["run_dir"]
    return content


def read_done(folder: Path, *names: str) -> dict[str, Any]:
    """What DONE says.

    Args:
        folder: Folder of the run.
        names: What it must say.

    Raises:
        DataError: if it is damaged.
    """
    try:
        return read_json_mapping(folder / DONE, *names)
    except DataError as error:
        raise DataError(
            f"{DONE} in {folder.name} is damaged ({error}). Delete it and run the same command again, which goes on "
            "from the last checkpoint."
        ) from error
