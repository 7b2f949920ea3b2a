"""`make volumes`: the volume set that another encoder reads, written from the sources of a finished cohort."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from datamodules.importers.builder import add_volumes
from datamodules.importers.index_kidneys import IndexKidneys
from datamodules.importers.records import ReportsProgress, Source
from datamodules.volumes.shards import volume_folder
from datamodules.volumes.volume_files import is_whole
from experiments.cohorts.origins import recall
from experiments.cohorts.sources import make_source, recognise
from experiments.encoders.published.inputs import described, encoder_contract
from experiments.registry import ENCODERS
from experiments.runs.console import progress_bar, say

_LARGEST_SHARE = 0.9
"""Share of the free disk that a volume set may take."""


def volumes(
    encoder: str,
    data: Path = Path("data/demo"),
    profile: str = "demo",
    source: Path | None = None,
    kind: str = "auto",
    options: dict[str, Any] | None = None,
    workers: int | None = None,
) -> int:
    """Write the volumes that an encoder reads, from the sources that the cohort was made from.

    Tables, splits and other volume sets stay as they are. A published encoder gets the index kidneys alone. An
    interrupted command goes on where it stopped.

    Args:
        encoder: Image encoder whose preprocessing contract the volumes follow.
        data: Folder of the cohort.
        profile: Profile; only encoders without a contract of their own depend on it.
        source: Folder or manifest that the cohort was imported from; remembered for the user who imported it, on that
            machine.
        kind: Kind of source; recognised from the path by default.
        options: Options of that kind.
        workers: Processes; all cores by default.
    """
    contract = encoder_contract(encoder, profile)
    cohort = Cohort.load(data)
    made_from = _source(cohort, source, kind, options)
    if ENCODERS[encoder].release:
        made_from = IndexKidneys(made_from)
    folder = volume_folder(data, contract)
    if is_whole(folder):
        say(f"Cohort {cohort.info.name} holds the volumes of ENCODER={encoder} already: {folder.name}")
        return 0
    say(f"ENCODER={encoder} reads {described(contract)}.")
    _check_disk(cohort, int(np.prod(contract.grid)), one_kidney=isinstance(made_from, IndexKidneys))
    with progress_bar() as bar:
        if isinstance(made_from, ReportsProgress):
            headers = bar.add_task(f"{cohort.info.name}: files", total=None)
            made_from.progress = lambda done, total: bar.update(headers, completed=done, total=total)
        task = bar.add_task(f"{cohort.info.name}: patients", total=len(cohort["patients"]))
        written = add_volumes(
            made_from, cohort, contract, workers, lambda done, total: bar.update(task, completed=done, total=total)
        )
    say(f"{len(written)} volumes of {len(cohort['patients'])} patients: {folder.name}")
    return 0


def _source(cohort: Cohort, path: Path | None, kind: str, options: dict[str, Any] | None) -> Source:
    """The source that is named, else the one that made the cohort."""
    if path is not None:
        return make_source(recognise(path) if kind == "auto" else kind, path, cohort.root, options or {})
    if cohort.info.phantom and cohort.info.name == "demo":
        drawn = {"patients": len(cohort["patients"]), "seed": cohort.info.seed}
        return make_source("demo", None, cohort.root, drawn)
    origin = recall(cohort.root)
    if origin is None or origin.path is None:
        raise DataError(
            f"What cohort {cohort.info.name} was imported from is not known here; name it with SOURCE=, and OPTIONS= "
            "as for `make import`."
        )
    if not Path(origin.path).exists():
        raise DataError(
            f"What cohort {cohort.info.name} was imported from is no longer where it was; name it with SOURCE=."
        )
    return make_source(origin.kind, Path(origin.path), cohort.root, origin.options)


def _check_disk(cohort: Cohort, voxels: int, *, one_kidney: bool) -> None:
    """Say how much is written, and refuse what the disk does not hold."""
    count = len(cohort["series"]) * (1 if one_kidney else 2)
    needed, free = 2 * voxels * count, shutil.disk_usage(cohort.root).free
    say(
        f"About {count} volumes of {2 * voxels / 1e6:.1f} MB, {needed / 1e9:.1f} GB in all; {free / 1e9:.0f} GB are "
        "free."
    )
    if needed > _LARGEST_SHARE * free:
        raise DataError(
            f"The volumes need about {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB free; free some space, "
            "or put the cohort on a larger disk."
        )
