"""Files of an exported folder, each put in its place as a whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file

from lightning_modules.networks.image.published.checkpoint import file_sha256


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, on the disk before it takes its place; an error leaves what was there."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        handle = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file; a reader finds the old one or the whole new one."""
    with _replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def writing_tensors(
    path: Path, state: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> Iterator[str]:
    """Write tensors as safetensors, from any device, and put them in their place when the block ends.

    Yields:
        SHA-256 of the file, for what is written beside it and before it.
    """
    with _replacing(path) as temporary:
        save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, temporary, metadata)
        yield file_sha256(temporary)


def write_tensors(path: Path, state: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors, from any device; a reader finds the old file or the whole new one."""
    with writing_tensors(path, state, metadata):
        pass


def write_files(folder: Path, save: Callable[[Path], object]) -> None:
    """Write what a library saves into a folder; a reader finds every file old or whole.

    Args:
        folder: The folder, which exists.
        save: Called with an empty folder beside the files.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=".part") as name:
        save(Path(name))
        for written in sorted(path for path in Path(name).rglob("*") if path.is_file()):
            target = folder / written.relative_to(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with _replacing(target) as temporary:
                written.replace(temporary)
