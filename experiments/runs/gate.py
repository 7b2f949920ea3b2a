"""The gate before every import that a value asks for: what a configuration may name, and how large it may be.

The parser imports what files, flags and variables of the environment name: classes by full or short name, callables,
types, in nested files and in lists, given whole or added with `+=`. All of it passes one function of jsonargparse,
which here denies everything but the names below before anything of it is imported.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from jsonargparse import get_loader, set_loader, set_parsing_settings
from lightning.pytorch import callbacks, loggers, profilers, strategies

import datamodules
import lightning_modules
from datamodules.errors import DataError
from datamodules.names import check_name
from datamodules.plain_yaml import RefusedYamlError, check_bounds, read_yaml

SUITE = (
    "callbacks.predictions.AttributePredictionWriter",
    "callbacks.predictions.PredictionWriter",
    "callbacks.progress.Throughput",
    "datamodules.AlignmentDataModule",
    "datamodules.AttributeDataModule",
    "datamodules.ReportImageDataModule",
    "datamodules.RoiDataModule",
    "datamodules.ReportDataModule",
    "datamodules.TokenAlignmentDataModule",
    "lightning_modules.ClipAlignment",
    "lightning_modules.AttributePretraining",
    "lightning_modules.Classification",
    "lightning_modules.ReportGeneration",
    "lightning_modules.Survival",
    "lightning_modules.MaskedNextToken",
    "lightning_modules.UnsupervisedSimcse",
    "lightning_modules.AttributeContrast",
    "lightning_modules.TextTowerAlignment",
)
"""Classes of this suite that a configuration may name. A new stage, DataModule or callback is one more entry."""

SETTINGS = (
    "experiments.runs.baseline.RadiomicsSettings",
    "lightning_modules.networks.joint.report_writer.WriterConfig",
)
"""Settings that may be left out: the parser looks up the class of such a group by its name, too."""

_LIGHTNING = {
    callbacks: (
        "DeviceStatsMonitor",
        "EarlyStopping",
        "EMAWeightAveraging",
        "GradientAccumulationScheduler",
        "LearningRateMonitor",
        "ModelSummary",
        "RichModelSummary",
        "RichProgressBar",
        "StochasticWeightAveraging",
        "Timer",
        "TQDMProgressBar",
    ),
    loggers: ("CSVLogger", "MLFlowLogger", "TensorBoardLogger"),
    profilers: ("AdvancedProfiler", "PassThroughProfiler", "PyTorchProfiler", "SimpleProfiler"),
    strategies: ("DDPStrategy", "ModelParallelStrategy", "SingleDeviceStrategy"),
}
"""Those of Lightning. None that calls what it is given (LambdaCallback) or that keeps checkpoints: the suite does."""


def allowed() -> list[str]:
    """Full names that a configuration may name, as exported and as defined; the parser checks both."""
    lightning = [(module, getattr(module, name)) for module, names in _LIGHTNING.items() for name in names]
    exported = [f"{module.__name__}.{cls.__name__}" for module, cls in lightning]
    defined = [f"{cls.__module__}.{cls.__qualname__}" for _, cls in lightning]
    places = {package.__name__: package.PLACES for package in (datamodules, lightning_modules)}
    for package, _, name in (path.rpartition(".") for path in SUITE):
        if package in places:
            defined.append(f"{places[package][name]}.{name}")
    return [*SUITE, *SETTINGS, *exported, *defined]


_ALLOWED = frozenset(allowed())
_read = get_loader("yaml")


def _bounded(text: str) -> object:
    check_bounds(text)
    return _read(text)


set_parsing_settings(
    import_path_denylist=["*"],
    import_path_allowlist=sorted(_ALLOWED),
    # Where a type takes anything, what looks like a class is checked like one, and never built.
    validate_subclass_spec_in_any=True,
    instantiate_subclass_spec_in_any=False,
)
set_loader("yaml", _bounded, (yaml.YAMLError,))

_DENIED = re.compile(r"Importing '([^']*)' is not allowed")
_KEY = re.compile(r'[Kk]ey "([^"]*)"')


def denied_name(error: BaseException) -> str | None:
    """The sentence for an error of the parser that comes of a name which may not be imported; None for others."""
    text = str(error)
    found = _DENIED.search(text)
    if found is None:
        return None
    key = _KEY.search(text)
    return _sentence(key[1] if key else "", found[1])


def _sentence(key: str, name: str) -> str:
    return (
        f"{key or 'The configuration'} names {name[:200]!r}, which a configuration may not: it may name the suite's "
        "own classes and some of Lightning's, listed in experiments/runs/gate.py. Nothing of it was imported."
    )


def check_tree(node: object, key: str = "") -> None:
    """Refuse a class that a resolved configuration names anywhere, also where no type makes the parser look at it.

    Args:
        node: The configuration as plain data.
        key: Where it stands.

    Raises:
        DataError: naming the key and the class.
    """
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "class_path" and value not in _ALLOWED:
                raise DataError(_sentence(key, str(value)))
            check_tree(value, f"{key}.{name}".lstrip("."))
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            check_tree(value, f"{key}[{number}]")


def check_seed(name: str, seed: object) -> None:
    """Refuse a seed that is no whole number from 0 to 2^32 - 1, which is what NumPy takes.

    Raises:
        DataError: naming the flag.
    """
    if isinstance(seed, int) and not 0 <= seed < 1 << 32:
        raise DataError(f"{name}={seed} was asked for; expected a whole number from 0 to {(1 << 32) - 1}.")


def check_names_and_seeds(args: list[str]) -> None:
    """Refuse seeds on a command line that are none, and tags that cannot become part of a folder's name.

    Raises:
        DataError: naming the flag.
    """
    for position, argument in enumerate(args):
        name, equals, value = argument.partition("=")
        given = value if equals else "".join(args[position + 1 : position + 2])
        if name in ("--tag",) and given:
            check_name(name, given)
        if re.fullmatch(r"--(?:[\w.]+\.)?(?:seeds?|seed_everything)", name):
            for number in re.findall(r"-?\d+", given):
                check_seed(name, int(number[:20]))


def check_arguments(args: list[str]) -> None:
    """Refuse configuration files and flags that are no plain YAML of a bounded size, before the parser reads them.

    Args:
        args: The command line.

    Raises:
        DataError: naming the file or the flag.
    """
    for position, argument in enumerate(args):
        name, _, value = argument.partition("=")
        named = value.endswith((".yaml", ".yml")) and not value.startswith(("[", "{"))
        if name in ("--config", "-c") or named:
            path = Path(value or (args[position + 1] if position + 1 < len(args) else ""))
            read_yaml(path, f"Configuration {path.name}")
            continue
        try:
            check_bounds(value or argument)
        except RefusedYamlError as error:
            raise DataError(f"The flag {name[:80]} is refused: {error}; correct it.") from error
        except yaml.YAMLError:
            continue  # a text
