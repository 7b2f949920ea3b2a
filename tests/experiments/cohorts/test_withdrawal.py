"""Who leaves a cohort: caches of runs go with them, and what used them is named."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.identity import DataIdentity, kidney_identity
from datamodules.cohort.trained_on import TrainedOn
from datamodules.files import write_json, write_parquet
from experiments.cohorts.cohort_commands import import_cohort
from experiments.cohorts.withdrawal import Use, drop_caches, uses
from experiments.runs.folders import EMBEDDINGS, FEATURES, cache_folder
from tests.datamodules.importers.test_several import add_rows, write


def identity(parts: dict[str, str]) -> DataIdentity:
    rows = [
        {"patient_id": patient, "study_id": f"{patient}-e", "side": side, "part": part}
        for patient, part in parts.items()
        for side in ("left", "right")
    ]
    return kidney_identity(pd.DataFrame(rows), {"reports": [b"text"] * len(rows)})


def run(folder: Path, parts: dict[str, str]) -> None:
    """What a finished run leaves of whom it used."""
    folder.mkdir(parents=True)
    used = identity(parts)
    used.write(folder / "data.parquet")
    TrainedOn.of(used).write(folder)
    write_parquet(
        folder / "predictions.parquet", pd.DataFrame({"patient_id": [p for p in parts if parts[p] == "test"]})
    )
    (folder / "encoder").mkdir()
    TrainedOn.of(used).write(folder / "encoder")


def test_runs_exports_and_results_that_know_a_patient_are_named(tmp_path: Path) -> None:
    run(tmp_path / "a", {"p-1": "train", "p-2": "train", "p-3": "test"})
    run(tmp_path / "b", {"p-2": "train", "p-1": "test", "p-3": "val"})
    run(tmp_path / "c", {"p-2": "train", "p-4": "test"})
    write_json(tmp_path / "review" / "cases.json", {"case": "p-3"})
    (tmp_path / "review" / "broken.parquet").write_bytes(b"PAR1")
    assert uses(tmp_path, ["p-1", "p-3"]) == [
        Use("a", "trained on 1, tested 1, names 1"),
        Use("a/encoder", "trained on 1"),
        Use("b", "selected on 1, tested 1, names 1"),
        Use("review", "names 1"),
    ]
    assert uses(tmp_path, ["p-9"]) == []
    assert uses(tmp_path / "nowhere", ["p-1"]) == []


@pytest.mark.slow
def test_an_import_removes_caches_of_who_left_and_names_their_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_rows(tmp_path / "north", ["1", "2", "3"])
    sources = {"north": {"path": "north/manifest.csv", "center": "north", "role": "internal"}}
    write(tmp_path, sources=sources)
    out, runs = tmp_path / "out", tmp_path / "runs"
    import_cohort(tmp_path / "cohort.yaml", out, workers=1, runs=runs)
    cohort = Cohort.load(out)
    leaver, *others = map(str, cohort["patients"]["patient_id"])
    for kind in (FEATURES, EMBEDDINGS):
        write_json(cache_folder(runs, cohort, kind) / "x" / "whole.json", {})
    run(runs / "renal" / "joined" / "rfs" / "a", {leaver: "train", others[0]: "test"})
    write_json(out / "data-check.json", [{"what": leaver}])
    write(tmp_path, sources=sources, withdrawn=[leaver])
    capsys.readouterr()
    import_cohort(tmp_path / "cohort.yaml", out, workers=1, runs=runs)
    said = capsys.readouterr().out
    assert "1 patients are no longer in the source and were removed." in said
    assert "removed with them, to be computed again: renal/joined/features" in said
    assert "renal/joined/rfs/a: trained on 1" in said
    assert not any(cache_folder(runs, cohort, kind).exists() for kind in (FEATURES, EMBEDDINGS))
    assert not (out / "data-check.json").exists()
    assert drop_caches(runs, cohort) == []
