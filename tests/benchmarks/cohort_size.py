"""Cohorts of any size for measuring what a rank reads before its first step: tables alone, without a voxel.

    python -m tests.benchmarks.cohort_size --patients=6867 --patients=165000 --out=cohort_size.json

writes synthetic tables, and measures each step in a process of its own with one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datamodules.augmentation import AugmentationConfig
from datamodules.cohort.cohort import Cohort, CohortInfo
from datamodules.cohort.columns import PHASES
from datamodules.cohort.labels import Label
from datamodules.cohort.splits import assign_splits
from datamodules.files import write_json, write_parquet
from datamodules.tasks import RoiDataModule
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.shards import shard_name, volume_folder

CONTRACT = PreprocessingContract(grid=(40, 48, 48))
PHASES_EACH = 3
VOLUMES_EACH = 2 * PHASES_EACH
ATTRIBUTES = ("lesion_present", "pole", "stones", "cyst", "hydronephrosis")
_CENTERS = [*(f"P{number}" for number in range(6)), "I1", "I2", "E1", "E2"]
_ROLES = {"P": "pretrain", "I": "internal", "E": "external"}


def write_cohort(root: Path, patients: int, seed: int = 0) -> Path:
    """Write a cohort of some patients, two kidneys each in three contrast phases, and its list of volumes.

    Args:
        root: Folder to write.
        patients: Number of patients; they have six volumes each.
        seed: Seed of what is drawn.
    """
    rng = np.random.default_rng(seed)
    names = np.array([f"patient-{number:07d}" for number in range(patients)])
    studies = np.char.add(names, "-study")
    centers = pd.DataFrame({"center": _CENTERS, "role": [_ROLES[name[0]] for name in _CENTERS]})
    table = pd.DataFrame(
        {
            "patient_id": names,
            "center": rng.choice(_CENTERS, patients),
            "age_years": rng.integers(30, 90, patients).astype(float),
            "sex": rng.choice(["female", "male"], patients),
            "tumor_size_mm": rng.uniform(8, 120, patients).round(1),
            "histology": rng.choice(["clear cell", "papillary", "chromophobe", "oncocytoma"], patients),
            "malignancy": rng.integers(0, 2, patients),
            "aggressiveness": rng.integers(0, 2, patients),
            "time_origin": "surgery",
            **{f"{name}_months": rng.uniform(0, 120, patients).round(2) for name in ("rfs", "dss", "os")},
            **{f"{name}_event": rng.random(patients) < 0.2 for name in ("rfs", "dss", "os")},
        }
    )
    both = {"patient_id": names.repeat(2), "study_id": studies.repeat(2), "side": np.tile(["left", "right"], patients)}
    lesion = np.tile([True, False], patients)
    kidneys = pd.DataFrame(
        {
            **both, "has_lesion": lesion, "is_index": lesion, "lesion_count": lesion.astype(int),
            "kidney_volume_ml": rng.uniform(90, 250, 2 * patients).round(1),
            "lesion_diameter_mm": np.where(lesion, rng.uniform(8, 120, 2 * patients).round(1), np.nan),
            "renal_r": pd.Series(rng.integers(1, 4, 2 * patients)).astype("Int64").where(lesion),
        }
    )  # fmt: skip
    phase = np.tile(PHASES[:PHASES_EACH], patients)
    series = pd.DataFrame(
        {
            "patient_id": names.repeat(PHASES_EACH), "study_id": studies.repeat(PHASES_EACH),
            "series_id": np.char.add(np.char.add(studies.repeat(PHASES_EACH), "-"), phase),
            "phase": phase, "intensity": "acquired", "spacing_d_mm": 1.0, "spacing_h_mm": 0.8, "spacing_w_mm": 0.8,
        }
    )  # fmt: skip
    reports = pd.DataFrame(
        {
            "report_id": np.char.add(names, "-report"), "patient_id": names, "study_id": studies, "side": pd.NA,
            "text": [f"Renal mass of {size} mm in the left kidney . Right kidney normal . " * 6
                     for size in table["tumor_size_mm"]],
            "source": "clinical",
        }
    )  # fmt: skip
    many = len(ATTRIBUTES)
    attributes = pd.DataFrame(
        {
            "report_id": np.char.add(names, "-report").repeat(2 * many),
            **{name: value.repeat(many) for name, value in both.items()},
            "attribute": np.tile(ATTRIBUTES, 2 * patients), "value": "no", "start": 0, "end": 12,
            "evidence": "Renal mass of", "confidence": 1.0, "uncertain": False, "extractor": "rules",
            "schema_version": 1,
        }
    )  # fmt: skip
    times = pd.DataFrame({"patient_id": names, "study_id": studies, "days_from_origin": rng.integers(-90, 0, patients)})
    tables = {
        "centers": centers, "patients": table, "studies": times, "series": series, "kidneys": kidneys,
        "reports": reports, "attributes": attributes, "splits": assign_splits(table, centers, 42),
    }  # fmt: skip
    info = CohortInfo("size", "roles", "acquired", "Synthetic tables, for measuring.", phantom=True)
    Cohort(root, info, tables).write()
    _write_volumes(root, names, studies)
    return root


def _write_volumes(root: Path, names: np.ndarray, studies: np.ndarray) -> None:
    folder = volume_folder(root, CONTRACT)
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    shards = [f"{shard_name(name)}.bin" for name in names]
    for shard in shards:
        (folder / "shards" / shard).touch()
    each = len(names) * VOLUMES_EACH
    phase = np.tile(PHASES[:PHASES_EACH], 2 * len(names))
    index = pd.DataFrame(
        {
            "patient_id": names.repeat(VOLUMES_EACH),
            "study_id": studies.repeat(VOLUMES_EACH),
            "series_id": np.char.add(np.char.add(studies.repeat(VOLUMES_EACH), "-"), phase),
            "side": np.tile(np.array(["left", "right"]).repeat(PHASES_EACH), len(names)),
            "phase": phase,
            "position": np.arange(each),
            "shard": np.array(shards).repeat(VOLUMES_EACH),
            "crc32": np.arange(each) * 2654435761 % 2**32,
        }
    )
    write_parquet(folder / "index.parquet", index.convert_dtypes())
    write_parquet(
        folder / "files.parquet",
        pd.DataFrame({"file": [f"shards/{s}" for s in shards], "patient_id": names, "bytes": 0, "crc32": 0}),
    )
    write_json(folder / "contract.json", CONTRACT.to_dict())


def data_module(root: Path) -> RoiDataModule:
    """Fine-tuning on malignancy."""
    label = Label("malignancy", "malignancy", [0, 1], ["benign", "malignant"])
    return RoiDataModule(root, label, contract=CONTRACT, augmentation=AugmentationConfig(crop=(36, 44, 44)))


def _timed(work: Callable[[], Any]) -> float:
    started = time.process_time()  # a busy machine takes longer, and does no more
    work()
    return time.process_time() - started


def _peak_gib() -> float:
    """Peak of this program; `getrusage` would count the process that started it, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**20


def measured(root: Path, what: str) -> dict[str, float]:
    """Seconds and GiB of this process: `load` of the cohort alone, or the `start` of a rank that fine-tunes."""
    before = _peak_gib()
    if what == "load":
        seconds = {"load": _timed(lambda: Cohort.load(root))}
    else:
        module = data_module(root)
        seconds = {
            "plan": _timed(lambda: module.plan),
            "visits": _timed(lambda: module.visits("train")),
            "loader": _timed(lambda: next(iter(module.loader("train", shuffled=True).batch_sampler))),  # type: ignore[arg-type]
            "identity": _timed(lambda: module.identity.sha256),
        }
    return {**seconds, "imports_gib": before, "peak_gib": _peak_gib()}


def measure(root: Path, what: str) -> dict[str, float]:
    """`measured` in a process of its own, whose memory is that of the work."""
    command = [sys.executable, "-m", "tests.benchmarks.cohort_size", f"--of={root}", f"--what={what}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ARROW_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Write, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, action="append", default=[])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--keep", type=Path, help="folder of the cohorts, which are kept; a temporary one by default")
    parser.add_argument("--of", type=Path, help="a cohort to measure in this process")
    parser.add_argument("--what", choices=("load", "start"), default="load")
    given = parser.parse_args()
    if given.of is not None:
        print(json.dumps(measured(given.of, given.what)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        results = []
        for patients in given.patients or [6867, 165000]:
            root = (given.keep or Path(scratch)) / f"size-{patients}"
            if not (root / "cohort.json").is_file():
                write_cohort(root, patients)
            row = {"patients": patients, "volumes": VOLUMES_EACH * patients}
            results.append({**row, **{what: measure(root, what) for what in ("load", "start")}})
            print(json.dumps(results[-1]), flush=True)
    if given.out is not None:
        write_json(given.out, results)


if __name__ == "__main__":
    main()
