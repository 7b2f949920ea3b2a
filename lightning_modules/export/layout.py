"""What every exported folder is: a configuration, tensors as safetensors, and where it stands alone a card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from lightning_modules.core.errors import ModelError
from lightning_modules.export.written import write_text, writing_tensors
from lightning_modules.networks.image.published.checkpoint import file_sha256

FORMAT = 1
CARD = "README.md"
SEAL = "seal"
"""Field of a configuration: the hash of all else in it and of the tensors, by which damage to either is known."""


class Contents(NamedTuple):
    """What a folder holds.

    Args:
        config: Its configuration.
        others: Further JSON files that were asked for, in that order.
        state: Its tensors.
        sha256: Hash of their file.
    """

    config: dict[str, Any]
    others: list[dict[str, Any]]
    state: dict[str, torch.Tensor]
    sha256: str


@dataclass(frozen=True)
class Layout:
    """One kind of exported folder.

    Args:
        title: What a sentence calls it, before its name.
        config: Name of its configuration, JSON.
        weights: Name of its tensors, which are written last: a folder with them is complete.
        fields: What its configuration must hold.
        origin: The command that exports it.
        kind: What its configuration says that it is, where folders of several kinds have a file of that name.
    """

    title: str
    config: str
    weights: str
    fields: tuple[str, ...]
    origin: str
    kind: str = ""

    def write(
        self,
        folder: Path,
        config: Mapping[str, Any],
        state: Mapping[str, torch.Tensor],
        texts: Mapping[str, str] | None = None,
        header: dict[str, str] | None = None,
    ) -> str:
        """Write a folder.

        Args:
            folder: The folder; it is made.
            config: Its configuration; kind and format are put before.
            state: Its tensors.
            texts: Further files by name, for example the card.
            header: What the header of the tensors says, for libraries that read it.

        Returns:
            SHA-256 of the tensors' file.
        """
        folder.mkdir(parents=True, exist_ok=True)
        kind = {"kind": self.kind} if self.kind else {}
        with writing_tensors(folder / self.weights, state, header) as sha256:
            content = json.loads(as_json({**kind, "format": FORMAT, **config}))
            write_text(folder / self.config, as_json({**content, SEAL: _seal(content, sha256)}))
            for name, text in (texts or {}).items():
                write_text(folder / name, text)
        return sha256

    def read(self, folder: Path, *others: str) -> Contents:
        """Read a folder; nothing in it is executed.

        Args:
            folder: The folder.
            others: Names of further JSON files that it must hold.

        Raises:
            ModelError: if a file is absent, damaged, changed since, or of another kind or format.
        """
        texts = (self.config, *others)
        missing = [name for name in (*texts, self.weights) if not (folder / name).is_file()]
        if missing:
            raise ModelError(
                f"{self.title} {folder.name} has no {', '.join(missing)}; expected what `{self.origin}` exports."
            )
        try:
            config, *further = (json.loads((folder / name).read_text(encoding="utf-8")) for name in texts)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{self.title} {folder.name} is damaged ({error}); export it again.") from error
        if not all(isinstance(one, dict) for one in (config, *further)):
            raise ModelError(
                f"{self.title} {folder.name} is damaged ({' or '.join(texts)} holds no names); export it again."
            )
        state = read_tensors(folder / self.weights, self.title)
        if config.get("format") != FORMAT or config.get("kind", "") != self.kind:
            raise ModelError(
                f"{self.title} {folder.name} holds {_named(config.get('kind', ''), config.get('format'))}; expected "
                f"{_named(self.kind, FORMAT)}."
            )
        lacking = [name for name in self.fields if name not in config]
        if lacking:
            raise ModelError(
                f"{self.title} {folder.name}: {self.config} has no {', '.join(lacking)}, so it is of another version "
                f"or damaged; export it again with `{self.origin}`."
            )
        sha256 = file_sha256(folder / self.weights)
        seal = config.pop(SEAL, None)  # folders of before there were seals have none
        if seal is not None and seal != _seal(config, sha256):
            raise ModelError(
                f"{self.title} {folder.name}: {self.config} and {self.weights} are not as they were written; one of "
                f"them is damaged or was changed. Export it again with `{self.origin}`."
            )
        return Contents(config, further, state, sha256)


def _seal(content: Mapping[str, Any], sha256: str) -> str:
    return hashlib.sha256(f"{json.dumps(content, sort_keys=True)} {sha256}".encode()).hexdigest()


def read_tensors(path: Path, title: str) -> dict[str, torch.Tensor]:
    """The tensors of a file in a folder that is called so.

    Raises:
        ModelError: if it is damaged.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ModelError(f"{title} {path.parent.name} is damaged ({error}); export it again.") from error


def _named(kind: str, version: object) -> str:
    return f"{kind} of format {version}" if kind else f"format {version}"


def as_json(content: Mapping[str, Any]) -> str:
    """The text of a JSON file."""
    return json.dumps(dict(content), indent=2) + "\n"
