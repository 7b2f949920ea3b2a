"""Files of an exported folder, each put in its place as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file


def write_text(path: Path, text: str) -> None:
    """Write a text file; a reader finds the old one or the whole new one."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_tensors(path: Path, state: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors, from any device; a reader finds the old file or the whole new one."""
    temporary = path.with_name(f".{path.name}.part")
    save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, temporary, metadata)
    temporary.replace(path)
