"""The commands that faults befall, and whether what they leave is what an undisturbed one leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from datamodules.cohort.cohort import Cohort
from datamodules.volumes.volume_files import is_whole
from tests.chaos.assessments import as_undamaged
from tests.chaos.sandbox import ask
from tests.chaos.stage import POINT, Stage, import_manifest, import_slices, in_processes, statuses

Commands = dict[str, Callable[[Stage, Path], list[str]]]


def _data_check(stage: Stage, folder: Path) -> list[str]:
    return ["data-check", f"--data={stage.copy('tiny', folder)}", "--deep=true"]


def _scans(stage: Stage, folder: Path) -> list[str]:
    stage.copy("scans", folder)
    return import_manifest(folder)


def _slices(stage: Stage, folder: Path) -> list[str]:
    stage.copy("slices", folder)
    return import_slices(folder)


def _resume(stage: Stage, folder: Path) -> list[str]:
    run = stage.copy_runs(folder) / POINT
    for left in ("DONE", "predictions.parquet", "results.csv"):
        (run / left).unlink(missing_ok=True)
    return ["resume", str(run), f"--runs={folder / 'runs'}"]


def _report(stage: Stage, folder: Path) -> list[str]:
    where = [f"--data={stage.copy('tiny', folder)}", f"--runs={stage.copy_runs(folder)}"]
    return ["report", *where, "--tasks=[malignancy]", f"--out={folder / 'report'}"]


def _assess(stage: Stage, folder: Path) -> list[str]:
    stage.copy("assess", folder)
    return stage.assess(folder)


def _once(stage: Stage, folder: Path, command: Callable[[Stage, Path], list[str]]) -> list[str]:
    """A command that was run before."""
    ask(command(stage, folder), folder)
    return command(stage, folder)


COMMANDS: Commands = {
    "data-check": _data_check,
    "import": _scans,
    "import of DICOM": _slices,
    "import in processes": lambda stage, folder: in_processes(_scans(stage, folder)),
    "radiomics in processes": lambda stage, folder: in_processes(COMMANDS["radiomics"](stage, folder)),
    "finetune": lambda stage, folder: stage.finetune(folder, data=stage.copy("tiny", folder)),
    "resume": _resume,
    "report": _report,
    "qc": lambda stage, folder: ["qc", f"--data={stage.copy('tiny', folder)}"],
    "attributes": lambda stage, folder: ["attributes", f"--data={stage.copy('tiny', folder)}"],
    "radiomics": lambda stage, folder: [
        "radiomics", f"--data={stage.copy('imported', folder)}", f"--runs={folder / 'runs'}", "--workers=1"
    ],
    "assess": _assess,
    "assess again": lambda stage, folder: _once(stage, folder, _assess),
    "import again": lambda stage, folder: _once(stage, folder, _scans),
    "import of DICOM again": lambda stage, folder: _once(stage, folder, _slices),
    "refresh": lambda stage, folder: stage.of_imported(folder, "refresh"),
    "volumes": lambda stage, folder: stage.of_imported(
        folder, "volumes", "--encoder=scratch", "--profile=small", "--workers=1"
    ),
    "doctor": lambda stage, folder: ["doctor", f"--data={stage.copy('tiny', folder)}", f"--runs={folder / 'runs'}"],
}  # fmt: skip


def _as_imported(stage: Stage, folder: Path, sets: int) -> bool:
    """Whether the tables of the imported cohort are those that they were, and it has so many whole volume sets."""
    one, two = (Cohort.load(root / "imported") for root in (stage.root, folder))
    same = set(one.tables) == set(two.tables) and all(one[name].equals(two[name]) for name in one.tables)
    found = sorted((folder / "imported" / "volumes").glob("*/contract.json"))
    return same and len(found) == sets and all(is_whole(path.parent) for path in found)


def is_healthy(stage: Stage, command: str, folder: Path) -> bool:
    """Whether the result is that of an undisturbed command."""
    if command.startswith("import"):
        return statuses(folder) == ["imported"] * 3
    if command in ("finetune", "resume"):
        found = folder / "runs" / POINT / "predictions.parquet"
        expected = stage.root / "runs" / POINT / "predictions.parquet"
        return found.is_file() and pd.read_parquet(found).equals(pd.read_parquet(expected))
    if command.startswith("assess"):
        return as_undamaged(stage, folder)
    if command in ("refresh", "volumes"):
        return _as_imported(stage, folder, 1 if command == "refresh" else 2)
    if command == "report":
        return any((folder / "report").rglob("*.html"))
    if command.startswith("radiomics"):
        return len(list((folder / "runs").rglob("radiomics-*.parquet"))) == 1
    return True
