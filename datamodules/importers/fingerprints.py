"""Fingerprints of inputs: whether an interrupted import may go on with what it has."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def fingerprint(settings: Mapping[str, Any], files: Iterable[Path]) -> str:
    """Hash of settings and of the names, sizes and times of input files.

    Args:
        settings: Everything that changes the result, as plain data or values with a stable `str`.
        files: Input files; one that does not exist counts as absent.

    Returns:
        32 hexadecimal digits, from which no name can be read.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for path in files:
        state = path.stat() if path.is_file() else None
        stamp = "absent" if state is None else f"{state.st_size} {state.st_mtime_ns}"
        digest.update(f"{path}\0{stamp}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]
