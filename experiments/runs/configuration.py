"""The configuration of a run as an object: layers of files, values on top of them, the user's own flags.

The layers and their order are those of `experiments.registry.compose`. A configuration is parsed once, however often it
is read or built; it is the one place that knows the parser's command line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.registry import compose
from experiments.runs.suite_cli import SuiteCLI


@dataclass(frozen=True)
class Configuration:
    """What configures a run.

    Args:
        files: Configuration files, each over those before it.
        values: Values over the files, by dotted key; those that are None are left out.
        flags: Flags of the user, over all else, as `--optimizer.lr=1e-4`.
    """

    files: tuple[Path, ...]
    values: Mapping[str, Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, stage: str, *, values: Mapping[str, Any] | None = None, flags: Iterable[str] = (), **names: Any
    ) -> Configuration:
        """The configuration of a stage or task.

        Args:
            stage: Name of a file under `configs/stage`.
            values: Values over the files.
            flags: Flags of the user.
            names: profile, encoder, task and variant, as `experiments.registry.compose` takes them.
        """
        return cls(tuple(compose(stage, **names)), dict(values or {}), tuple(flags))

    def over(self, *, values: Mapping[str, Any] | None = None, flags: Iterable[str] = ()) -> Configuration:
        """The same with further values and flags over it."""
        return replace(self, values={**self.values, **(values or {})}, flags=(*self.flags, *flags))

    def arguments(self) -> list[str]:
        """The parser's command line."""
        return [
            *(f"--config={path}" for path in self.files),
            *(f"--{key}={value}" for key, value in self.values.items() if value is not None),
            *self.flags,
        ]

    @cached_property
    def parsed(self) -> SuiteCLI:
        """The parser with the configuration read and checked; nothing is built."""
        return SuiteCLI(self.arguments(), run=False, parse_only=True)

    def resolved(self) -> dict[str, Any]:
        """Every setting after all layers, as plain data."""
        return self.parsed.resolved_config()

    def build(self) -> SuiteCLI:
        """Model, DataModule and Trainer, new at every call and seeded as a run is."""
        return self.parsed.built()


def datamodule_of(configuration: Configuration) -> Any:
    """The DataModule of a configuration, with its patients read and checked."""
    return configuration.build().datamodule
