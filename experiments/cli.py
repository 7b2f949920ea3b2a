"""`python -m experiments`: one entry to everything, callable from tests as `main(args)`."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from callbacks.interruption import Terminated, ending_on_sigterm
from datamodules.errors import DataError
from datamodules.processes import end_with_parent
from experiments.runs.console import configure_output
from experiments.runs.failures import end
from experiments.runs.gate import check_arguments, check_names_and_seeds

TRAINER_COMMANDS = ("fit", "validate", "test", "predict")
COMMANDS: dict[str, tuple[str, str]] = {
    "cohort": ("experiments.cohorts.commands", "cohort"),
    "import": ("experiments.cohorts.commands", "import_cohort"),
    "volumes": ("experiments.encoders.published.volumes", "volumes"),
    "encoders": ("experiments.encoders.published.table", "encoders"),
    "data-check": ("experiments.cohorts.commands", "data_check"),
    "qc": ("experiments.cohorts.quality_page", "qc"),
    "reports": ("experiments.cohorts.measured_reports", "reports"),
    "attributes": ("experiments.cohorts.attributes", "attributes"),
    "finetune": (__name__, "finetune"),
    "pretrain": (__name__, "pretrain"),
    "probe": ("experiments.pretraining.evaluation.attribute_probe", "probe"),
    "zeroshot": ("experiments.aligned.zero_shot.classify", "zeroshot"),
    "retrieval": ("experiments.aligned.retrieval.search", "retrieval"),
    "generate": ("experiments.generation.generate", "generate"),
    "score-reports": ("experiments.generation.evaluate", "score_reports"),
    "review": ("experiments.generation.review.command", "review"),
    "embed": ("experiments.aligned.one_scan.scan", "embed"),
    "evaluate-text": ("experiments.pretraining.evaluation.text_evaluation", "evaluate_text"),
    "masked-loss": ("experiments.pretraining.evaluation.masked", "masked_loss"),
    "radiomics": ("experiments.encoders.radiomics.command", "radiomics"),
    "curve": ("experiments.studies.curve.curve", "curve"),
    "sweep": ("experiments.studies.sweep.sweep", "sweep"),
    "compare": ("experiments.studies.compare", "compare"),
    "report": ("experiments.studies.report.command", "report"),
    "resume": (__name__, "resume"),
    "doctor": ("experiments.doctor", "doctor"),
    "licences": ("experiments.licences.table", "licences"),
    "figure": (__name__, "figure"),
    "benchmarks": (__name__, "benchmarks"),
}
"""Module and function of every command; only that of the command at hand is imported, and all of them for the help."""


def finetune(
    task: str,
    fraction: float = 1.0,
    encoder: str = "scratch",
    profile: str = "demo",
    data: Path = Path("data/demo"),
    seed: int = 42,
    devices: str = "auto",
    runs: Path = Path("runs"),
    tag: str = "",
    pretrain_seed: int = 42,
    extra: list[str] | None = None,
    mode: str = "finetune",
    params: Path | None = None,
    nodes: int = 1,
    pretrain_tag: str = "",
) -> int:
    """Train and test one point of a data-efficiency curve.

    Args:
        task: Downstream task, or `all` for every one of them.
        fraction: Share of the training labels, in (0, 1].
        encoder: Image encoder.
        profile: Size of the run: demo, study, small or paper.
        data: Folder of the cohort.
        seed: Seed of the label fraction, the weights and the order.
        devices: Devices, as Lightning's Trainer takes them.
        runs: Folder of all runs.
        tag: Suffix of the run's name, for a configuration that you changed.
        pretrain_seed: Seed of the pretraining whose encoder is used.
        extra: Further flags, for example `["--optimizer.lr=1e-4"]`.
        mode: `finetune`, or `probe` for a linear model on frozen features.
        params: YAML file of hyper-parameters on top of the configuration, for example a sweep's `best.yaml`.
        nodes: Machines, each with `devices`; more than one is started by torchrun or srun.
        pretrain_tag: TAG of the pretraining whose encoder is used; also that of the run where it has none.
    """
    from experiments.finetuning import finetune as command
    from experiments.runs.launcher import check_launcher

    check_launcher(nodes, mode)
    flags = (*(() if params is None else (f"--config={params}",)), *(extra or ()))
    named = tag or pretrain_tag
    point = command.Point(
        task, fraction, encoder, profile, data, seed, devices, runs, named, pretrain_seed, flags, mode
    )
    command.finetune(replace(point, nodes=nodes, pretrain_tag=pretrain_tag))
    return 0


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


RESUMABLE = ("finetune", "pretrain", "sweep")
"""Commands that `resume` calls again."""


def resume(run: str, runs: Path = Path("runs")) -> int:
    """Go on with an interrupted run from its last checkpoint.

    Args:
        run: Folder of the run, or its MLflow id.
        runs: Folder of all runs.
    """
    from experiments.runs.launch import RUN_COMMAND
    from experiments.runs.tracking import find_run

    return _dispatch(stored_command(find_run(runs, run) / RUN_COMMAND, runs))


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

    stored = read_json(path)
    command = stored.get("command") if isinstance(stored, dict) else None
    arguments = stored.get("arguments") if isinstance(stored, dict) else None
    if not isinstance(command, str) or command not in RESUMABLE or not isinstance(arguments, dict):
        raise DataError(
            f"{path.name} in {path.parent.name} holds the command {str(command)[:80]!r}; `resume` goes on with one of "
            f"{', '.join(RESUMABLE)} alone. Call the command itself."
        )
    known = inspect.signature(_function(command)).parameters
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
    import json

    return json.dumps(value) if isinstance(value, list) else "null" if value is None else str(value)


def figure(
    data: Path = Path("data/demo"), patient: str | None = None, out: Path = Path("docs/demo_patient.png")
) -> int:
    """Draw a patient of the phantom cohort: four phases with the lesion outlined.

    Args:
        data: Folder of the phantom cohort.
        patient: Patient; one with four phases and a well visible lesion by default.
        out: Picture to write.
    """
    from experiments.cohorts.phantom_figure import demo_figure

    demo_figure(data, patient, out)
    return 0


def benchmarks(bench: str = "data", quick: bool = False, out: Path | None = None) -> int:
    """Measure a hot path side by side in one run, and say what bounds it.

    Args:
        bench: Which one: data, train, text, encoding, contrastive, statistics.
        quick: A few repeats only; the figures are then rough.
        out: JSON file for every figure; by default beside the benchmark's code.
    """
    from experiments.registry import BENCHMARKS, choose

    module = importlib.import_module(BENCHMARKS[choose("BENCH", bench, dict(BENCHMARKS))])
    module.run(quick=quick, **({} if out is None else {"out": out}))
    return 0


def _function(command: str) -> Callable[..., int]:
    module, name = COMMANDS[command]
    function: Callable[..., int] = getattr(importlib.import_module(module), name)
    return function


def _dispatch(args: list[str]) -> int:
    check_arguments(args)
    check_names_and_seeds(args)
    if args and args[0] in TRAINER_COMMANDS:
        from experiments.runs.suite_cli import SuiteCLI

        SuiteCLI(args)
        return 0
    listed = ", ".join([*COMMANDS, *TRAINER_COMMANDS])
    if args and not args[0].startswith("-") and args[0] not in COMMANDS:
        raise DataError(f"Command {args[0]!r} is not known; choose one of {listed}.")
    if args and args[0] == "resume" and len(args) > 1 and not args[1].startswith("-"):
        args = ["resume", f"--run={args[1]}", *args[2:]]
    names = args[:1] if args and args[0] in COMMANDS else list(COMMANDS)
    commands: dict[str, Any] = {name: _function(name) for name in names}
    result = auto_cli(commands, args=args, as_positional=False, exit_on_error=False, prog="python -m experiments")
    return int(result or 0)


def main(args: list[str] | None = None) -> int:
    """Run one command.

    Args:
        args: Command line without the program; `sys.argv` by default.

    Returns:
        Exit code: 0 done, 1 a check or the run failed, 2 bad input, 130 interrupted, 143 terminated; but for the first
        with one sentence on standard error.
    """
    configure_output()
    if int(os.environ.get("LOCAL_RANK") or 0) > 0:  # started by a launcher or by rank 0
        end_with_parent()
    try:
        with ending_on_sigterm():
            return _dispatch(list(sys.argv[1:] if args is None else args))
    except (Exception, KeyboardInterrupt, Terminated) as error:
        return end(error)
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning makes an exit of it
            return end(stop)
        raise
