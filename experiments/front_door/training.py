"""Commands that train: every stage of pretraining, one point of a curve, and an interrupted run again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from datamodules.errors import DataError


def pretrain(
    stages: list[str] | None = None,
    profile: str = "demo",
    data: Path = Path("data/demo"),
    seed: int = 42,
    devices: str = "auto",
    runs: Path = Path("runs"),
    extra: list[str] | None = None,
    nodes: int = 1,
    tag: str = "",
) -> int:
    """Run the pretraining stages in order, each skipped when it is finished.

    Args:
        stages: Stages to run, or parts of one as `text:mntp`; all by default.
        profile: Size of the run: demo, study, small or paper.
        data: Folder of the cohort.
        seed: Seed.
        devices: Devices, as Lightning's Trainer takes them.
        runs: Folder of all runs.
        extra: Further flags, for example `["--optimizer.lr=1e-4"]`; each stage that is asked for must know them.
        nodes: Machines, each with `devices`; more than one is started by torchrun or srun.
        tag: Suffix of the runs' names, for settings that you changed.
    """
    from experiments.pretraining.pretrain import Pretraining, parse_stages
    from experiments.pretraining.pretrain import pretrain as command

    wanted = Pretraining(parse_stages(stages), profile, data, seed, devices, runs, tuple(extra or ()))
    command(replace(wanted, nodes=nodes, tag=tag))
    return 0


def finetune(
    task: str = "malignancy",
    fraction: float = 1.0,
    encoder: str = "best",
    profile: str = "demo",
    data: Path = Path("data/demo"),
    seed: int = 42,
    devices: str = "auto",
    runs: Path = Path("runs"),
    tag: str = "",
    pretrained: str = "s42",
    extra: list[str] | None = None,
    mode: str = "finetune",
    params: Path | None = None,
    nodes: int = 1,
) -> int:
    """Train and test one point of a data-efficiency curve.

    Args:
        task: Downstream task, or `all` for every one of them.
        fraction: Share of the training labels, in (0, 1]; 0 for an encoder that starts from the prompts.
        encoder: Image encoder; `best` is the first that is here of aligned, stage1 and scratch.
        profile: Size of the run: demo, study, small or paper.
        data: Folder of the cohort.
        seed: Seed of the label fraction, the weights and the order.
        devices: Devices, as Lightning's Trainer takes them.
        runs: Folder of all runs.
        tag: Suffix of the run's name, for a configuration that you changed.
        pretrained: Pretraining whose encoder is used: `s42`, or with its TAG `s42-mytag`; its TAG is also that of
            the run where it has none.
        extra: Further flags, for example `["--optimizer.lr=1e-4"]`.
        mode: `finetune`, or `probe` for a linear model on frozen features.
        params: YAML file of hyper-parameters on top of the configuration, for example a sweep's `best.yaml`.
        nodes: Machines, each with `devices`; more than one is started by torchrun or srun.
    """
    from datamodules.cohort.cohort import Cohort
    from experiments.encoders.exported import best_encoder
    from experiments.finetuning import finetune as command
    from experiments.runs.pretrained import pretrained_from
    from experiments.runs.started_ranks import check_launcher

    check_launcher(nodes, mode)
    if encoder == "best":
        encoder = best_encoder(runs, Cohort.load(data), pretrained)
    flags = (*(() if params is None else (f"--config={params}",)), *(extra or ()))
    named = tag or pretrained_from(pretrained).tag
    point = command.Point(task, fraction, encoder, profile, data, seed, devices, runs, named, pretrained, flags, mode)
    command.finetune(replace(point, nodes=nodes))
    return 0


RESUMABLE = ("finetune", "pretrain", "sweep")
"""Commands that `resume` calls again."""


def resume(run: str, runs: Path = Path("runs")) -> int:
    """Go on with an interrupted run from its last checkpoint.

    Args:
        run: Folder of the run, or its MLflow id.
        runs: Folder of all runs.
    """
    from experiments.front_door.execution import dispatch
    from experiments.runs.launch import RUN_COMMAND
    from experiments.runs.tracking import find_run

    return dispatch(stored_command(find_run(runs, run) / RUN_COMMAND, runs))


def stored_command(path: Path, runs: Path) -> list[str]:
    """The training command that a run keeps, as a command line; run folders are shared, so that it is looked at first.

    Args:
        path: The run's `run.json`.
        runs: Folder of all runs. A run below it goes on there, wherever it was begun.

    Raises:
        DataError: if it is no training command, holds an argument that the command does not take, or would write
            elsewhere.
    """
    from datamodules.files import read_json
    from experiments.front_door.commands import definition

    stored = read_json(path)
    command = stored.get("command") if isinstance(stored, dict) else None
    arguments = stored.get("arguments") if isinstance(stored, dict) else None
    if not isinstance(command, str) or command not in RESUMABLE or not isinstance(arguments, dict):
        raise DataError(
            f"{path.name} in {path.parent.name} holds the command {str(command)[:80]!r}; `resume` goes on with one of "
            f"{', '.join(RESUMABLE)} alone. Call the command itself."
        )
    known = {option.name for option in definition(command).options}
    for name, value in arguments.items():
        plain = value is None or isinstance(value, str | int | float)
        texts = isinstance(value, list) and all(isinstance(entry, str) for entry in value)
        if name not in known or not (plain or texts):
            raise DataError(
                f"{path.name} in {path.parent.name} holds the argument {name[:80]!r}, which {command} does not take as "
                "it stands there; the file is damaged or was edited. Call the command itself."
            )
    inside, begun = path.resolve(), Path(str(arguments.get("runs", "runs")))
    if inside.is_relative_to(runs.resolve()):
        arguments = {**arguments, "runs": str(runs)}
    elif not inside.is_relative_to(begun.resolve()):
        raise DataError(
            f"{path.name} in {path.parent.name} would go on in the folder {begun.name}, in which it does not lie; name "
            "the folder of all runs with RUNS=."
        )
    return [command, *(f"--{name}={_text(value)}" for name, value in arguments.items())]


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list) else "null" if value is None else str(value)
