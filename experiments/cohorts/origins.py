"""What cohorts were imported from, kept for this user on this machine and never in a cohort, which may be shared."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datamodules.errors import DataError
from datamodules.files import read_json_mapping, replacing


@dataclass(frozen=True)
class Origin:
    """The SOURCE, KIND and OPTIONS of an import.

    Args:
        kind: Kind of source.
        path: Folder or manifest, absolute; None of a source that reads nothing.
        options: Options of that kind; they may name further files.
    """

    kind: str
    path: str | None
    options: dict[str, Any]


def origins_folder() -> Path:
    """Where origins are kept: `sources` under RENAL_CACHE, which is `~/.cache/renal-vlm-suite` by default.

    Raises:
        RuntimeError: if the user has no home folder.
    """
    cache = os.environ.get("RENAL_CACHE")
    return (Path(cache).expanduser() if cache else Path.home() / ".cache" / "renal-vlm-suite") / "sources"


def _file(cohort: Path) -> Path | None:
    """The file of a cohort, by the fingerprint of its source; a cohort that is moved keeps it."""
    key = cohort / ".build" / "source.json"
    if not key.is_file():
        return None
    return origins_folder() / f"{read_json_mapping(key, 'fingerprint')['fingerprint'][:32]}.json"


def remember(cohort: Path, origin: Origin) -> None:
    """Keep the origin of a cohort, readable by its user only.

    Raises:
        DataError, OSError, RuntimeError: if it cannot be written.
    """
    path = _file(cohort)
    if path is not None:
        with replacing(path, mode=0o600) as temporary:
            temporary.write_text(json.dumps(asdict(origin), indent=2) + "\n", encoding="utf-8")


def recall(cohort: Path) -> Origin | None:
    """The origin of a cohort; None where this user did not import it on this machine."""
    try:
        path = _file(cohort)
        return Origin(**read_json_mapping(path)) if path is not None and path.is_file() else None
    except (DataError, RuntimeError, TypeError, KeyError):  # a damaged memory is none: the user names the source
        return None
