"""The search space of a sweep: a YAML file of parser paths and distributions, refused before the first trial."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from datamodules.errors import DataError
from datamodules.names import check_name
from datamodules.plain_yaml import read_yaml
from experiments.registry import CONFIGS, choose, did_you_mean
from experiments.runs.launch import flatten
from lightning_modules.core.errors import ModelError

SPACES = CONFIGS / "sweep"
Value = bool | int | float | str | None

_FIELDS = {
    "float": ({"low", "high"}, {"step", "log"}),
    "int": ({"low", "high"}, {"step", "log"}),
    "categorical": ({"choices"}, set()),
}
# What may differ between trials: how a model is trained. Patients, their labels and the preprocessing may not.
_OPEN = re.compile(
    r"optimizer\.\w+|encoder\.\w+|augmentation\.(?!crop)[\w.]+|model\.init_args\.(?!pretrained|outcome|class_counts|contract)"
    r"\w+|trainer\.(max_epochs|gradient_clip_val)"
    r"|data\.init_args\.(batch_size|samples_per_epoch|phases|center_weights)"
)


@dataclass(frozen=True)
class Space:
    """What is searched.

    Args:
        name: Name of the file, without ending.
        distributions: Distribution of every parameter, by its path in the parser.
    """

    name: str
    distributions: Mapping[str, BaseDistribution]

    def suggest(self, trial: Trial) -> dict[str, Value]:
        """The values of a trial, by path."""
        return {path: _suggest(trial, path, found) for path, found in self.distributions.items()}

    def described(self) -> dict[str, str]:
        """The distributions as text, so that two workers can tell whether they search the same."""
        return {path: str(found) for path, found in self.distributions.items()}


def _suggest(trial: Trial, path: str, found: BaseDistribution) -> Value:
    if isinstance(found, FloatDistribution):
        return trial.suggest_float(path, found.low, found.high, step=found.step, log=found.log)
    if isinstance(found, IntDistribution):
        return trial.suggest_int(path, found.low, found.high, step=found.step, log=found.log)
    assert isinstance(found, CategoricalDistribution)
    return trial.suggest_categorical(path, found.choices)


def read_space(name: str) -> Space:
    """A search space by the name of a file under `configs/sweep`, or any file.

    Raises:
        DataError: naming the file, the parameter and what was expected.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        known = {file.stem: file for file in sorted(SPACES.glob("*.yaml"))}
        path = SPACES / f"{choose('SPACE', name, dict(known))}.yaml"
    content = read_yaml(path, f"Search space {path.name}")
    if not isinstance(content, dict) or not content:
        raise DataError(f"Search space {path.name} is empty; expected parameter paths with a distribution each.")
    check_name("SPACE", path.stem)
    return Space(path.stem, {str(key): _distribution(path.name, str(key), node) for key, node in content.items()})


def _distribution(file: str, path: str, node: Any) -> BaseDistribution:
    def refused(expected: str) -> DataError:
        return DataError(f"Search space {file}: {path} is {node!r}; expected {expected}.")

    if not isinstance(node, dict) or node.get("type") not in _FIELDS:
        raise refused("a mapping with type float, int or categorical, for example {type: float, low: 0.0, high: 0.5}")
    needed, optional = _FIELDS[node["type"]]
    given = set(node) - {"type"}
    if not needed <= given or given - needed - optional:
        raise refused(f"{', '.join(sorted(needed))} and at most {', '.join(sorted(optional)) or 'nothing'} besides")
    if not _OPEN.fullmatch(path):
        raise DataError(
            f"Search space {file}: {path} may not be searched. Trials may differ in how they train (optimizer.*, "
            "model.init_args.*, encoder.*, augmentation.*, trainer.max_epochs, data.init_args.batch_size), not in "
            "patients, labels or preprocessing, or their values could not be compared."
        )
    if node["type"] == "categorical":
        choices = node["choices"]
        if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, Value) for c in choices):
            raise refused("at least two choices, each a number, a word, true, false or null")
        return CategoricalDistribution(choices)
    low, high, step, log = node["low"], node["high"], node.get("step"), node.get("log", False)
    kind: type[int | float] = int if node["type"] == "int" else float
    numbers = [low, high] if step is None else [low, high, step]
    if not all(isinstance(n, int | kind) and not isinstance(n, bool) and math.isfinite(float(n)) for n in numbers):
        raise refused(f"finite numbers of type {kind.__name__} (write 1.0e-4, not 1e-4)")
    if not isinstance(log, bool) or not low < high or (log and (low <= 0 or step is not None)):
        raise refused("low < high; with log: true, low above 0 and no step")
    if step is not None and not (step > 0 and _on_grid(high, low, step)):
        raise refused("a step that leads from low to high")
    if kind is int:
        return IntDistribution(low, high, log=log, step=step or 1)
    return FloatDistribution(float(low), float(high), log=log, step=step)


def _on_grid(value: float, low: float, step: float) -> bool:
    steps = (value - low) / step
    return abs(steps - round(steps)) < 1e-6


def flags(values: Mapping[str, Value]) -> list[str]:
    """Values as flags of the parser."""
    return [f"--{path}={value if isinstance(value, str) else json.dumps(value)}" for path, value in values.items()]


def nested(values: Mapping[str, Value]) -> dict[str, Any]:
    """Values as a configuration: dotted paths as nested mappings."""
    content: dict[str, Any] = {}
    for path, value in values.items():
        *groups, name = path.split(".")
        node = content
        for group in groups:
            node = node.setdefault(group, {})
        node[name] = value
    return content


def check_space(space: Space, parse: Callable[[list[str]], dict[str, Any]]) -> dict[str, Value]:
    """Have the parser read every end and every choice of the space.

    Args:
        space: The search space.
        parse: Reads further flags and gives the resolved configuration, as `SuiteCLI` does.

    Returns:
        The values of the configuration itself, by path.

    Raises:
        DataError: naming the parameter that the parser does not know, or the value that it does not take.
    """
    base = flatten(parse([]))
    probes = {path: _ends(found) for path, found in space.distributions.items()}
    unknown = [path for path in probes if path not in base]
    if unknown:
        hint = did_you_mean(unknown[0], base)
        raise DataError(f"Search space {space.name}: the parser knows no {unknown[0]} for this task and encoder.{hint}")
    for number in range(max(map(len, probes.values()))):
        row = {path: ends[min(number, len(ends) - 1)] for path, ends in probes.items()}
        if _refusal(parse, row) is not None:
            _name_the_one(space, parse, row)
    return {path: base[path] for path in space.distributions}


def _refusal(parse: Callable[[list[str]], dict[str, Any]], values: Mapping[str, Value]) -> str | None:
    try:
        parse(flags(values))
    except (ArgumentError, DataError, ModelError, ValueError, TypeError) as error:
        return " ".join(str(error).split())
    return None


def _name_the_one(space: Space, parse: Callable[[list[str]], dict[str, Any]], row: Mapping[str, Value]) -> None:
    for path, value in row.items():
        reason = _refusal(parse, {path: value})
        if reason is not None:
            raise DataError(f"Search space {space.name}: the parser refuses {path} = {value} ({reason}).")
    raise DataError(f"Search space {space.name}: the parser refuses these values together: {dict(row)}.")


def _ends(found: BaseDistribution) -> list[Value]:
    if isinstance(found, CategoricalDistribution):
        return list(found.choices)
    assert isinstance(found, FloatDistribution | IntDistribution)
    return [found.low, found.high]


def contains(found: BaseDistribution, value: Value) -> bool:
    """Whether a value could be drawn."""
    if isinstance(found, CategoricalDistribution):
        return any(value == choice and type(value) is type(choice) for choice in found.choices)
    assert isinstance(found, FloatDistribution | IntDistribution)
    if isinstance(value, bool) or not isinstance(value, int | float) or not found.low <= value <= found.high:
        return False
    return found.step is None or _on_grid(value, found.low, found.step)


def edges(space: Space, values: Mapping[str, Value]) -> list[str]:
    """Sentences about values that stand at an end of their range, where something better may lie beyond.

    An end is 2 % of the range, in logarithms where the distribution is drawn so.
    """
    sentences = []
    for path, found in space.distributions.items():
        if isinstance(found, CategoricalDistribution):
            continue
        assert isinstance(found, FloatDistribution | IntDistribution)
        low, high, value = _scaled(found.log, (found.low, found.high, values[path]))
        place = (value - low) / (high - low)
        if not 0.02 < place < 0.98:
            end, bound = ("lower", found.low) if place < 0.5 else ("upper", found.high)
            sentences.append(
                f"The best {path} = {values[path]:.3g} stands at the {end} edge of its range ({bound:g}); "
                "widen the range, something better may lie beyond."
            )
    return sentences


def _scaled(log: bool, numbers: Iterable[Any]) -> list[float]:
    return [math.log(number) if log else float(number) for number in numbers]
