"""Published checkpoints: read without running anything in them, and matched to a network key by key."""

from __future__ import annotations

import hashlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from lightning_modules.core.errors import ModelError
from lightning_modules.networks.image.published.releases import KeyLayout

_NESTED = ("state_dict", "model", "model_state_dict")
_NAMED = 5


@dataclass(frozen=True)
class KeyDifferences:
    """What became of every key of a checkpoint and of a network.

    Args:
        used: Keys of the network that took their values, names as they are in the network.
        renamed: Pairs of the key in the checkpoint and in the network, where they differ by more than the prefix.
        ignored: Keys of the checkpoint that the layout declares to be of no use here.
        missing: Keys of the network that the checkpoint does not hold.
        unexpected: Keys of the checkpoint that nothing declares.
        reshaped: Keys of the network whose values have another shape, with both shapes.
    """

    used: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...]
    ignored: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...] = ()

    def __str__(self) -> str:
        return (
            f"{len(self.used)} keys used ({len(self.renamed)} renamed), {len(self.ignored)} ignored, "
            f"{len(self.missing)} missing, {len(self.unexpected)} unexpected"
        )


def load_published(
    network: nn.Module, path: Path, layout: KeyLayout, *, sha256: str = "", source: str = ""
) -> KeyDifferences:
    """Put the weights of a release into a network; nothing in the file is executed.

    Args:
        network: As `build_published` makes it; keeps its own precision.
        path: safetensors, or what torch.save wrote: a state, or one under `state_dict` or `model`.
        layout: How the release names the weights.
        sha256: Hash that the file must have, where it is known.
        source: Where the weights come from and under which licence, for the error that they are absent.

    Returns:
        What became of every key; nothing is missing or unexpected.

    Raises:
        ModelError: if the file is absent, damaged, another one than `sha256` says, holds code, or does not fit; the
            message names up to five keys.
    """
    state = read_state(path, sha256=sha256, source=source)
    values, report = match_keys(network, state, layout)
    _refuse_mismatch(path, report, len(state))
    network.load_state_dict(values, strict=True)
    return report


def read_state(path: Path, *, sha256: str = "", source: str = "") -> dict[str, torch.Tensor]:
    """The weights in a file by their published names.

    Args:
        path: safetensors, or what torch.save wrote.
        sha256: Hash that the file must have, where it is known.
        source: Where the weights come from, for the error that they are absent.

    Raises:
        ModelError: if the file is absent, damaged, has another hash, holds code, or no weights.
    """
    if not path.is_file():
        raise ModelError(f"Weights {path.name} were not found.{f' {source}' if source else ''}")
    if sha256 and (found := file_sha256(path)) != sha256:
        raise ModelError(
            f"{path.name} has SHA-256 {found[:12]}, and the release has {sha256[:12]}; the file is damaged or another "
            "one: fetch it again."
        )
    content: Mapping[str, object] = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    while isinstance(content, Mapping) and (inner := next((key for key in _NESTED if key in content), None)):
        nested = content[inner]
        if not isinstance(nested, Mapping):
            break
        content = nested
    state = {key: value for key, value in content.items() if isinstance(value, torch.Tensor)} if _named(content) else {}
    if not state:
        raise ModelError(f"{path.name} holds no weights; expected a state of a network, as torch.save writes it.")
    return state


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in parts."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _named(content: object) -> bool:
    return isinstance(content, Mapping) and all(isinstance(key, str) for key in content)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise _damaged(path, error) from error


def _read_pickle(path: Path) -> Mapping[str, object]:
    try:
        # Mapped where the format allows it: a checkpoint may hold a language model besides.
        content: Mapping[str, object] = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code is None:
            raise _damaged(path, EOFError("its pickle breaks off, is none, or asks for more than weights")) from error
        raise ModelError(
            f"{path.name} would run {code.group(1).rstrip('`')} when it is read, which was not done; a checkpoint of "
            "weights alone needs none. Use the file that the authors released, or its safetensors."
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError, KeyError, IndexError) as error:
        raise _damaged(path, error) from error
    return content


def _damaged(path: Path, error: Exception) -> ModelError:
    reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
    return ModelError(
        f"{path.name} ({path.stat().st_size:,} bytes) is truncated or damaged ({reason}); fetch it again."
    )


def match_keys(
    network: nn.Module, state: Mapping[str, torch.Tensor], layout: KeyLayout
) -> tuple[dict[str, torch.Tensor], KeyDifferences]:
    """Find the place of every published key, and a value for every key of the network.

    Args:
        network: The network.
        state: Weights by their published names.
        layout: How the release names them.

    Returns:
        Values by the names of the network, and what became of every key.
    """
    own = network.state_dict()
    prefix = layout.prefix_of(state)
    values: dict[str, torch.Tensor] = {}
    renamed, ignored, unexpected, reshaped = [], [], [], []
    for key, value in state.items():
        if any(re.fullmatch(pattern, key) for pattern in layout.ignored):
            ignored.append(key)
            continue
        stem = key[len(prefix) :] if prefix is not None and key.startswith(prefix) else None
        name = _renamed(stem, layout) if stem is not None else None
        if name is None or name not in own:
            unexpected.append(key)
        elif value.numel() != own[name].numel() or _squeezed(value) != _squeezed(own[name]):
            reshaped.append(f"{name} {list(value.shape)} instead of {list(own[name].shape)}")
        else:
            values[name] = value.reshape(own[name].shape)
            if name != stem:
                renamed.append((key, name))
    bad = {entry.split(" ")[0] for entry in reshaped}
    missing = tuple(name for name in own if name not in values and name not in bad)
    report = KeyDifferences(tuple(values), tuple(renamed), tuple(ignored), missing, tuple(unexpected), tuple(reshaped))
    return values, report


def _renamed(key: str, layout: KeyLayout) -> str:
    for pattern, replacement in layout.renames:
        key = re.sub(pattern, replacement, key)
    return key


def _squeezed(value: torch.Tensor) -> list[int]:
    """Its shape without axes of length one, in which a 1 x 1 x 1 convolution is a linear layer."""
    return [length for length in value.shape if length != 1]


def _refuse_mismatch(path: Path, report: KeyDifferences, total: int) -> None:
    """Refuse what would leave a network with random weights, or weights without a place."""
    problems = []
    for what, keys in (("missing", report.missing), ("shape", report.reshaped), ("unexpected", report.unexpected)):
        if keys:
            more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
            problems.append(f"{what}: {', '.join(keys[:_NAMED])}{more}")
    if problems:
        raise ModelError(
            f"{path.name} is not a checkpoint of this network: of its {total} keys {len(report.used)} fit "
            f"({'; '.join(problems)}); use the file that the release names."
        )
