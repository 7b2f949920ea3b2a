"""Where a user puts published weights, and which file of them an encoder takes."""

from __future__ import annotations

import os
import re
from pathlib import Path

from datamodules.errors import DataError
from experiments.registry import ENCODERS
from lightning_modules.networks.image.published.checkpoint import file_sha256
from lightning_modules.networks.image.published.releases import RELEASES, packaged_weights

WEIGHTS_VARIABLE = "RENAL_WEIGHTS"
"""Environment variable with the folder of published weights, `weights` where it is not set."""
ENDINGS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar")
TEXT = "text"
"""Folder beside the weights with configuration and tokenizer of the text side."""
_SHA256 = re.compile(r"\b[0-9a-f]{64}\b")


def weights_folder(encoder: str) -> Path:
    """Where the weights of a published encoder belong: `<RENAL_WEIGHTS>/<release>`."""
    return Path(os.environ.get(WEIGHTS_VARIABLE) or "weights").expanduser() / ENCODERS[encoder].release


def text_folder(encoder: str) -> Path:
    """Where configuration and tokenizer of a published encoder's text side belong: `text` beside its weights."""
    return weights_folder(encoder) / TEXT


def expected_sha256(encoder: str, path: Path) -> str:
    """The hash that a file must have: that of the release, else that of `<file>.sha256` beside it; empty if unknown.

    Raises:
        DataError: if the file beside it holds no SHA-256.
    """
    known = RELEASES[ENCODERS[encoder].release].sha256
    beside = path.with_name(f"{path.name}.sha256")
    if known or not beside.is_file():
        return known
    found = _SHA256.search(beside.read_text(encoding="utf-8", errors="replace").lower())
    if found is None:
        raise DataError(f"{beside.name} holds no SHA-256; expected what `sha256sum {path.name}` prints.")
    return found.group()


def find_weights(encoder: str) -> Path | None:
    """The file with the weights of a published encoder, unread; None where there is none.

    That of the release's name, else the only one in its folder, else what an installed package carries.

    Raises:
        DataError: if the folder holds several files and none of the release's name.
        ModelError: if the package is damaged.
    """
    folder, release = weights_folder(encoder), RELEASES[ENCODERS[encoder].release]
    if (folder / release.filename).is_file():
        return folder / release.filename
    files = sorted(path for path in folder.glob("*") if path.is_file() and path.suffix in ENDINGS)
    if len(files) > 1:
        raise DataError(
            f"weights/{folder.name} holds {len(files)} files ({', '.join(path.name for path in files[:3])}); expected "
            f"{release.filename}, or one file."
        )
    return files[0] if files else packaged_weights(ENCODERS[encoder].release, folder)


def weights_file(encoder: str) -> Path:
    """The file with the weights of a published encoder, its checksum verified.

    Raises:
        DataError: if it is absent, saying where to get it and under which licence, or has another checksum.
        ModelError: if a package that carries it is damaged.
    """
    path = find_weights(encoder)
    if path is None:
        raise DataError(how_to_get(encoder))
    expected = expected_sha256(encoder, path)
    if expected and (found := file_sha256(path)) != expected:
        raise DataError(
            f"Weights {path.name} of ENCODER={encoder} have SHA-256 {found[:12]}; expected {expected[:12]}. The file "
            "is damaged or another one: fetch it again."
        )
    return path


def how_to_get(encoder: str) -> str:
    """One sentence on weights that are not here: where they are, their licence, where to put them."""
    release, folder = ENCODERS[encoder].release, weights_folder(encoder)
    source = RELEASES[release].source
    return (
        f"ENCODER={encoder} has no weights here; {source[0].lower()}{source[1:]} Put the file into the folder "
        f"{release} of {folder.parent.name or '.'}, or of the folder that {WEIGHTS_VARIABLE} names."
    )
