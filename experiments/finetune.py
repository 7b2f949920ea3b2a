"""`make finetune`: one point of a data-efficiency curve."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only

from callbacks.predictions import PREDICTIONS
from datamodules.cohort import Cohort
from datamodules.errors import DataError
from datamodules.files import read_parquet, write_json, write_parquet
from experiments.console import is_main_rank, say
from experiments.encoders import exported_encoder, folds_of
from experiments.evaluation import caption, format_table, results_table, write_results
from experiments.launch import DONE, RUN_COMMAND, Launch, check_finished, mark_done, train
from experiments.registry import TASKS, choose, compose
from experiments.tracking import cohort_tags, make_logger, parent_run, short_hash
from lightning_modules.networks.export import weights_sha256


@dataclass(frozen=True)
class Point:
    """One point: a task, an encoder, a label fraction, a seed.

    Args:
        task: Downstream task.
        fraction: Share of the training labels, in (0, 1].
        encoder: Image encoder.
        profile: Size of the run.
        data: Folder of the cohort.
        seed: Seed of the fraction, the weights and the order.
        devices: Devices, as Lightning's Trainer takes them.
        runs: Folder of all runs.
        tag: Suffix that tells apart runs whose configuration you changed.
        pretrain_seed: Seed of the pretraining whose encoder is used.
        extra: Further flags of the parser, for example `--optimizer.lr=1e-4`.
    """

    task: str
    fraction: float = 1.0
    encoder: str = "scratch"
    profile: str = "demo"
    data: Path = Path("data/demo")
    seed: int = 42
    devices: str = "auto"
    runs: Path = Path("runs")
    tag: str = ""
    pretrain_seed: int = 42
    extra: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the run."""
        suffix = f"-{self.tag}" if self.tag else ""
        return f"{self.encoder}-finetune-f{self.fraction:g}-s{self.seed}{suffix}"

    def experiment(self, cohort: Cohort) -> str:
        """MLflow experiment, which is also the folder under `runs`."""
        return f"renal/{cohort.info.name}/{self.task}"


def finetune(point: Point) -> pd.DataFrame:
    """Train and test one point; on a cohort with folds, one run per fold and the pooled predictions.

    A finished point is reported and not run again; an interrupted one goes on from its last checkpoint.

    Returns:
        The results by group, with n, positives and 95 % intervals.

    Raises:
        DataError: if the cohort, a name or the fraction is refused.
    """
    choose("TASK", point.task, dict(TASKS))
    if not 0 < point.fraction <= 1:
        raise DataError(f"FRACTION={point.fraction:g} was asked for; expected a share of the labels in (0, 1].")
    files = compose("finetune", profile=point.profile, encoder=point.encoder, task=point.task)
    cohort = Cohort.load(point.data)
    folder = point.runs / point.experiment(cohort) / point.name
    folds = folds_of(cohort)
    launches = [_launch(point, cohort, files, folder, fold) for fold in folds]
    if (folder / DONE).is_file() and all(check_finished(launch) for launch in launches):
        table = pd.read_csv(folder / "results.csv")
        say(f"{point.name} is finished already; its results:")
        _report(table, cohort, folder)
        return table
    parent = _curve(point, cohort)
    if folds == [None]:
        logger = train(replace(launches[0], parent=parent), test=True).logger
        predictions = _predictions(folder)
    else:
        logger, predictions = _run_folds(point, cohort, folder, launches, parent)
    _finish(point, cohort, folder, logger, predictions)
    table = results_table(predictions)
    _report(table, cohort, folder)
    return table


def _curve(point: Point, cohort: Cohort) -> str | None:
    """The parent run that all points of one curve share: same cohort, split, task and profile."""
    tags = cohort_tags(cohort)
    shared = {
        "cohort": tags["cohort"],
        "cohort_hash": tags["cohort_hash"],
        "split_hash": tags["split_hash"],
        "task": point.task,
        "profile": point.profile,
    }
    if not is_main_rank():
        return None
    return parent_run(point.runs, point.experiment(cohort), f"curve-{short_hash(shared)}", shared)


def _run_folds(
    point: Point, cohort: Cohort, folder: Path, launches: list[Launch], parent: str | None
) -> tuple[MLFlowLogger, pd.DataFrame]:
    """Every fold as a run of its own under one MLflow run, which takes the pooled results."""
    logger = make_logger(point.runs, folder, point.experiment(cohort), point.name, _tags(point, cohort), parent)
    if is_main_rank():
        write_json(folder / RUN_COMMAND, _command(point))
    parts = []
    for number, launch in enumerate(launches):
        if check_finished(launch):
            say(f"fold {number + 1} of {len(launches)} is finished already")
        else:
            say(f"fold {number + 1} of {len(launches)}")
            train(replace(launch, parent=logger.run_id), test=True)
            mark_done(launch.folder, {"fold": number})
        parts.append(_predictions(launch.folder).assign(fold=number))
    pooled = pd.concat(parts, ignore_index=True)
    if is_main_rank():
        write_parquet(folder / PREDICTIONS, pooled)
    return logger, pooled


def _launch(point: Point, cohort: Cohort, files: list[Path], folder: Path, fold: int | None) -> Launch:
    options: dict[str, object] = {
        "seed_everything": point.seed,
        "trainer.devices": point.devices,
        "data.init_args.root": point.data,
        "data.init_args.fraction": point.fraction,
        "data.init_args.fold": fold,
    }
    weights = exported_encoder(point.runs, cohort, point.encoder, point.pretrain_seed, fold)
    if weights is not None:
        options["model.init_args.pretrained"] = weights
        options["model.init_args.pretrained_sha256"] = weights_sha256(weights)
    return Launch(
        files=files,
        options=options,
        folder=folder if fold is None else folder / f"fold{fold}",
        runs=point.runs,
        experiment=point.experiment(cohort),
        name=point.name if fold is None else f"{point.name}-fold{fold}",
        tags=_tags(point, cohort),
        command=_command(point),
        extra=list(point.extra),
    )


def _predictions(folder: Path) -> pd.DataFrame:
    return read_parquet(folder / PREDICTIONS)[0]


@rank_zero_only
def _finish(point: Point, cohort: Cohort, folder: Path, logger: MLFlowLogger, predictions: pd.DataFrame) -> None:
    """Write and log the results; DONE is written last."""
    title = f"{TASKS[point.task].title}, {point.encoder}, {point.fraction:.0%} of the labels"
    table = write_results(folder, predictions, title, cohort.info)
    client, run_id = logger.experiment, logger.run_id
    for row in table.dropna(subset=["low"]).to_dict("records"):
        group = str(row["group"]).replace(" ", "_")
        for name in ("auroc", "low", "high", "n", "positives"):
            client.log_metric(run_id, f"{name}/{group}", float(row[name]))
    client.set_tag(run_id, "note", caption(cohort.info))
    for name in ("results.csv", "roc.png", PREDICTIONS):
        client.log_artifact(run_id, str(folder / name))
    client.set_terminated(run_id)
    mark_done(folder, {"run_id": run_id, "results": "results.csv"})


def _tags(point: Point, cohort: Cohort) -> dict[str, str]:
    return {
        **cohort_tags(cohort),
        "task": point.task,
        "encoder": point.encoder,
        "profile": point.profile,
        "fraction": f"{point.fraction:g}",
        "seed": str(point.seed),
        "pretrain_seed": str(point.pretrain_seed),
    }


def _command(point: Point) -> dict[str, object]:
    return {"command": "finetune", "arguments": _plain(point)}


def _plain(point: Point) -> dict[str, object]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(point).items()}


def _report(table: pd.DataFrame, cohort: Cohort, folder: Path) -> None:
    say(f"{format_table(table)}\n{caption(cohort.info)}\nFolder: {folder.as_posix()}")
