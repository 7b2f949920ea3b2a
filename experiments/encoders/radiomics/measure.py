"""`make radiomics`: measure a cohort's radiomics on their own, so that their time is counted apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.study_times import index_kidneys
from datamodules.errors import DataError
from datamodules.volumes.shards import VolumeSet
from experiments.cohorts.cohort_commands import profile_contract
from experiments.encoders.radiomics.cache import cache_file, radiomics_table
from experiments.registry import axis_file
from experiments.runs.baseline import RadiomicsSettings
from experiments.runs.console import say
from experiments.runs.folders import FEATURES, cache_folder


def radiomics(
    data: Path = Path("data/demo"),
    profile: str = "demo",
    runs: Path = Path("runs"),
    settings: Path | None = None,
    workers: int | None = None,
) -> int:
    """Measure radiomics of every series of the kidneys that downstream tasks read.

    What was measured before is kept, also by a command that was interrupted. `make finetune ENCODER=radiomics` does
    the same for the patients of its task.

    Args:
        data: Folder of the cohort.
        profile: Profile whose volumes are measured.
        runs: Folder of all runs, where the features are kept.
        settings: YAML file with `baseline.radiomics`; that of the encoder `radiomics` by default.
        workers: Processes; all cores by default.
    """
    chosen = RadiomicsSettings.read(settings or axis_file("encoder", "radiomics"))
    cohort = Cohort.load(data)
    volumes = VolumeSet.find(data, contract=profile_contract(profile))
    folder = cache_folder(runs, cohort, FEATURES)
    positions = downstream_positions(cohort, volumes)
    table = radiomics_table(volumes, positions, folder, chosen, workers)
    absent = int(np.isnan(table.to_numpy()).any(axis=1).sum())
    say(
        f"{len(table)} volumes, {table.shape[1]} features in {', '.join(chosen.masks)}; {absent} volumes lack some. "
        f"Settings {chosen.hash}.\nFile: {cache_file(folder, volumes, chosen).as_posix()}"
    )
    return 0


def downstream_positions(cohort: Cohort, volumes: VolumeSet) -> list[int]:
    """Positions of the index kidneys of all patients outside the pretraining centres, which train no downstream task.

    Raises:
        DataError: if there are none.
    """
    patients = cohort.patients()
    wanted = patients.loc[patients["role"] != "pretrain", "patient_id"]
    kidneys = index_kidneys(cohort)
    kidneys = kidneys.loc[kidneys["patient_id"].isin(wanted), ["patient_id", "study_id", "side"]]
    found = kidneys.merge(volumes.index, on=["patient_id", "study_id", "side"])
    if found.empty:
        raise DataError(f"Cohort {cohort.info.name} has no volume of an index kidney outside its pretraining centres.")
    return [int(position) for position in found["position"]]
