"""What knows a patient who left a cohort: its caches, which are removed, and runs and results, which are named.

A run is not removed: whether weights that have seen a patient may be kept is no question for a program.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.identity import PARTS, digests
from datamodules.cohort.trained_on import TRAINING_DATA
from datamodules.errors import DataError
from datamodules.files import read_parquet
from experiments.runs.folders import EMBEDDINGS, FEATURES, cache_folder
from experiments.runs.run_data import DATA

_WORDS = {"train": "trained on", "val": "selected on", "test": "tested"}
_TEXTS = (".csv", ".json", ".html", ".txt", ".md", ".yaml")
_NAMES = "patient_id"


@dataclass(frozen=True)
class Use:
    """A folder below the runs that knows patients.

    Args:
        folder: Relative to the folder of all runs.
        how: What it did with how many of them, in words.
    """

    folder: str
    how: str


def drop_caches(runs: Path, cohort: Cohort) -> list[str]:
    """Remove what runs of a cohort keep of its volumes and texts to compute it once: features and embeddings.

    Args:
        runs: Folder of all runs.
        cohort: The cohort.

    Returns:
        What was removed, relative to `runs`.
    """
    found = [cache_folder(runs, cohort, kind) for kind in (FEATURES, EMBEDDINGS)]
    there = [folder for folder in found if folder.is_dir()]
    for folder in there:
        shutil.rmtree(folder)
    return [folder.relative_to(runs).as_posix() for folder in there]


def uses(runs: Path, patients: Sequence[str]) -> list[Use]:
    """Runs, exports and results below a folder that used patients, or name them.

    The record of a run and the list of training patients beside weights hold digests, results hold pseudonyms.

    Args:
        runs: Folder of all runs.
        patients: Pseudonyms.
    """
    names = dict(zip(digests(patients).tolist(), patients, strict=True))
    found: dict[Path, dict[str, set[str]]] = {}
    for path in sorted(runs.rglob("*")) if runs.is_dir() else []:
        if path.is_file():
            for how, who in _known_by(path, names):
                found.setdefault(path.parent, {}).setdefault(how, set()).update(who)
    return [
        Use(folder.relative_to(runs).as_posix(), ", ".join(f"{how} {len(who)}" for how, who in kinds.items()))
        for folder, kinds in found.items()
    ]


def _known_by(path: Path, names: Mapping[int, str]) -> Iterator[tuple[str, set[str]]]:
    """What a file says of some patients, whose pseudonyms are given by their digests."""
    if path.name in (DATA, TRAINING_DATA):
        rows = _columns(path, ["patient", "part"] if path.name == DATA else ["patient"])
        if rows is not None:
            rows = rows[rows["patient"].isin(list(names))]
            parts = rows["part"] if "part" in rows else pd.Series("train", index=rows.index)
            for part in PARTS:
                who = {names[int(one)] for one in rows.loc[parts == part, "patient"]}
                if who:
                    yield _WORDS[part], who
        return
    who = set()
    if path.suffix == ".parquet":
        rows = _columns(path, [_NAMES])
        who = set() if rows is None else set(rows[_NAMES].astype(str)) & set(names.values())
    elif path.suffix in _TEXTS:
        content = path.read_bytes()
        who = {patient for patient in names.values() if patient.encode() in content}
    if who:
        yield "names", who


def _columns(path: Path, columns: list[str]) -> pd.DataFrame | None:
    """Columns of a Parquet file; None where it lacks one, or is damaged, and names nobody who could be found."""
    try:
        return read_parquet(path, columns)[0]
    except DataError:
        return None
