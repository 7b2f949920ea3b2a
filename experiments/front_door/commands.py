"""Every command: the function behind it, and what it takes, read from the function's source.

Importing all commands in order to list their options would take seconds, since each imports what it works with. What
`--help`, `make help` and the check of a command line need is the signature and the docstring, and both stand in the
source file: it is parsed, and the module is imported only when its command runs.
"""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from datamodules.errors import DataError
from experiments import registry

ROOT = Path(__file__).resolve().parents[__name__.count(".")]
"""Folder that holds the outermost package."""

GROUPS: dict[str, dict[str, str]] = {
    "Cohorts": {
        "cohort": "experiments.cohorts.cohort_commands:cohort",
        "import": "experiments.cohorts.cohort_commands:import_cohort",
        "refresh": "experiments.cohorts.cohort_commands:refresh",
        "volumes": "experiments.encoders.published.write_volumes:volumes",
        "data-check": "experiments.cohorts.cohort_commands:data_check",
        "qc": "experiments.cohorts.quality_page:qc",
        "reports": "experiments.cohorts.cohort_commands:reports",
        "attributes": "experiments.cohorts.attributes:attributes",
    },
    "Training": {
        "pretrain": "experiments.front_door.training:pretrain",
        "finetune": "experiments.front_door.training:finetune",
        "sweep": "experiments.studies.sweep.sweep:sweep",
        "resume": "experiments.front_door.training:resume",
        "submit": "experiments.front_door.submission:submit",
    },
    "Comparing encoders": {
        "encoders": "experiments.encoders.published.encoder_table:encoders",
        "radiomics": "experiments.encoders.radiomics.measure:radiomics",
        "probe": "experiments.pretraining.evaluation.attribute_probe:probe",
        "curve": "experiments.studies.curve.curve:curve",
        "compare": "experiments.studies.compare:compare",
        "report": "experiments.studies.report.study_report:report",
        "results": "experiments.studies.figures_page.results_command:results",
    },
    "Scans and reports": {
        "evaluate-text": "experiments.pretraining.evaluation.text_evaluation:evaluate_text",
        "masked-loss": "experiments.pretraining.evaluation.masked_tokens:masked_loss",
        "zeroshot": "experiments.aligned.zero_shot.classify:zeroshot",
        "retrieval": "experiments.aligned.retrieval.search:retrieval",
        "generate": "experiments.generation.generate:generate",
        "score-reports": "experiments.generation.evaluate:score_reports",
        "review": "experiments.generation.review.review_command:review",
    },
    "New patients": {
        "assess": "experiments.assessment.assess_command:assess",
        "serve": "experiments.assessment.serve_command:serve_assessments",
        "embed": "experiments.aligned.one_scan.scan:embed",
        "maps": "experiments.maps.maps_command:maps",
        "export": "experiments.assessment.export_command:export",
    },
    "The suite itself": {
        "ui": "experiments.front_door.care:ui",
        "doctor": "experiments.doctor:doctor",
        "gpu-check": "experiments.gpu_check.gpu_check:gpu_check",
        "benchmarks": "experiments.front_door.care:benchmarks",
        "licences": "experiments.licences.licence_table:licences",
        "figure": "experiments.front_door.care:figure",
    },
}
"""Module and function of every command, under what it is for, in the order in which a user meets them."""

COMMANDS: dict[str, str] = {name: place for commands in GROUPS.values() for name, place in commands.items()}
"""The same without the groups."""

TRAINER_COMMANDS = ("fit", "validate", "test", "predict")
"""Commands of the Trainer, whose options are those of the parser of configurations."""

SHORT: dict[str, tuple[str, dict[str, str]]] = {
    "pretrain-image": ("pretrain", {"stages": "image"}),
    "pretrain-text": ("pretrain", {"stages": "text"}),
    "pretrain-alignment": ("pretrain", {"stages": "alignment"}),
    "pretrain-report": ("pretrain", {"stages": "report"}),
}
"""Names for a command with some of its options given."""

CHOICES: dict[str, tuple[str, ...]] = {
    "task": tuple(registry.TASKS),
    "tasks": tuple(registry.TASKS),
    "encoder": tuple(registry.ENCODERS),
    "encoders": tuple(registry.ENCODERS),
    "compare.reference": tuple(registry.ENCODERS),
    "profile": tuple(registry.PROFILES),
    "mode": tuple(registry.MODES),
    "stages": tuple(registry.STAGES),
    "bench": tuple(registry.BENCHMARKS),
}
"""Names that an option of this name takes, or that of one command where others mean something else by it."""


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Args:
        name: Its name, as the function's parameter.
        type: Its type, as written in the source.
        default: Its default, as written in the source; None where it must be given.
        meaning: What the docstring says of it.
        choices: Names that it takes; empty where it is free.
    """

    name: str
    type: str
    default: str | None
    meaning: str
    choices: tuple[str, ...] = ()

    @property
    def listed(self) -> bool:
        """Whether it takes several values."""
        return "list[" in self.type

    @property
    def shown_default(self) -> str:
        """Its default as a user would write it; empty where there is none to speak of."""
        text = re.sub(r"^Path\((.*)\)$", r"\1", self.default or "")
        return "" if text in ("None", "''", '""') else text.strip("'\"")


@dataclass(frozen=True)
class Command:
    """What a command takes.

    Args:
        name: What a user types.
        purpose: First sentence of the docstring.
        text: The docstring before its arguments.
        options: Its options, in order.
    """

    name: str
    purpose: str
    text: str
    options: tuple[Option, ...]

    @property
    def passes_on(self) -> bool:
        """Whether it hands further settings, such as `optimizer.lr`, to the parser of the configuration."""
        return any(option.name == "extra" for option in self.options)

    def option(self, name: str) -> Option | None:
        """The option of a name; None where there is none."""
        return next((option for option in self.options if option.name == name), None)


def known(name: str) -> str:
    """The name itself, if it is a command.

    Raises:
        DataError: with the nearest name.
    """
    if name in COMMANDS or name in SHORT:
        return name
    every = (*COMMANDS, *SHORT)
    hint = registry.did_you_mean(name, every) or f" Choose one of {', '.join(every)}."
    raise DataError(f"The command {name[:80]!r} is not known.{hint}")


@cache
def definition(name: str) -> Command:
    """What a command takes, from the source of its function.

    Args:
        name: A key of `COMMANDS` or `SHORT`.
    """
    module, function = COMMANDS[SHORT[name][0] if name in SHORT else name].split(":")
    tree = ast.parse(_source(module).read_text(encoding="utf-8"))
    node = next(item for item in tree.body if isinstance(item, ast.FunctionDef) and item.name == function)
    document = inspect.cleandoc(ast.get_docstring(node) or "")
    text, _, rest = document.partition("\nArgs:\n")
    meanings = _meanings(re.split(r"\n(?=\S)", rest)[0])
    given = [*node.args.args, *node.args.kwonlyargs]
    defaults = [*node.args.defaults, *node.args.kw_defaults]
    values = [None] * (len(given) - len(defaults)) + defaults
    options = tuple(
        Option(
            parameter.arg,
            ast.unparse(parameter.annotation) if parameter.annotation else "str",
            None if value is None else ast.unparse(value),
            meanings.get(parameter.arg, ""),
            CHOICES.get(f"{name}.{parameter.arg}", CHOICES.get(parameter.arg, ())) or _literals(parameter.annotation),
        )
        for parameter, value in zip(given, values, strict=True)
    )
    return Command(name, " ".join(text.partition("\n\n")[0].split()), text.strip(), options)


def _source(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _literals(annotation: ast.expr | None) -> tuple[str, ...]:
    """The texts of a `Literal`, if the type is one."""
    if annotation is None or "Literal[" not in ast.unparse(annotation):
        return ()
    return tuple(
        node.value for node in ast.walk(annotation) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _meanings(section: str) -> dict[str, str]:
    """What a docstring's `Args:` says of each argument."""
    entries = re.split(r"\n(?=\s{0,4}\w+: )", "\n" + section.rstrip())
    pairs = (entry.strip().partition(": ") for entry in entries if entry.strip())
    return {name: " ".join(meaning.split()) for name, _, meaning in pairs}
