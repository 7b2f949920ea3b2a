"""The commands that faults befall, and whether what they leave is what an undisturbed one leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from datamodules.cohort.cohort import Cohort
from datamodules.volumes.volume_files import is_whole
from tests.chaos.assessments import as_undamaged
from tests.chaos.sandbox import ask
from tests.chaos.stage import POINT, Stage, import_manifest, import_slices, statuses

Commands = dict[str, Callable[[Stage, Path], list[str]]]


def _data_check(stage: Stage, folder: Path) -> list[str]:
    return ["data-check", f"--data={_tiny(stage, folder)}", "--deep=true"]


def _tiny(stage: Stage, folder: Path) -> Path:
    return folder / "tiny" if (folder / "tiny").exists() else stage.copy("tiny", folder)


def _imported(stage: Stage, folder: Path) -> Path:
    return folder / "imported" if (folder / "imported").exists() else stage.copy("imported", folder)


def _runs(stage: Stage, folder: Path) -> Path:
    return folder / "runs" if (folder / "runs").exists() else stage.copy_runs(folder)


def _scans(stage: Stage, folder: Path) -> list[str]:
    _ = (folder / "scans").exists() or stage.copy("scans", folder)
    return import_manifest(folder)


def _in_processes(command: list[str]) -> list[str]:
    return [flag if flag != "--workers=1" else "--workers=2" for flag in command]


def _slices(stage: Stage, folder: Path) -> list[str]:
    _ = (folder / "slices").exists() or stage.copy("slices", folder)
    return import_slices(folder)


def _resume(stage: Stage, folder: Path) -> list[str]:
    run = _runs(stage, folder) / POINT
    for left in ("DONE", "predictions.parquet", "results.csv"):
        (run / left).unlink(missing_ok=True)
    return ["resume", str(run), f"--runs={folder / 'runs'}"]


def _report(stage: Stage, folder: Path) -> list[str]:
    where = [f"--data={_tiny(stage, folder)}", f"--runs={_runs(stage, folder)}"]
    return ["report", *where, "--tasks=[malignancy]", f"--out={folder / 'report'}"]


def _assess(stage: Stage, folder: Path) -> list[str]:
    _ = (folder / "assess").exists() or stage.copy("assess", folder)
    return stage.assess(folder)


def _once(stage: Stage, folder: Path, command: Callable[[Stage, Path], list[str]]) -> list[str]:
    """A command that was run before."""
    ask(command(stage, folder), folder)
    return command(stage, folder)


def _of_imported(stage: Stage, folder: Path, command: str, *more: str) -> list[str]:
    source = [f"--source={stage.root / 'scans' / 'manifest.csv'}", "--options={plan: {name: chaos}}"]
    return [command, f"--data={_imported(stage, folder)}", *source, *more]


COMMANDS: Commands = {
    "data-check": _data_check,
    "import": _scans,
    "import of DICOM": _slices,
    "import in processes": lambda stage, folder: _in_processes(_scans(stage, folder)),
    "radiomics in processes": lambda stage, folder: _in_processes(COMMANDS["radiomics"](stage, folder)),
    "finetune": lambda stage, folder: stage.finetune(folder, data=_tiny(stage, folder)),
    "resume": _resume,
    "report": _report,
    "qc": lambda stage, folder: ["qc", f"--data={_tiny(stage, folder)}"],
    "attributes": lambda stage, folder: ["attributes", f"--data={_tiny(stage, folder)}"],
    "radiomics": lambda stage, folder: [
        "radiomics", f"--data={_imported(stage, folder)}", f"--runs={folder / 'runs'}", "--workers=1"
    ],
    "assess": _assess,
    "assess again": lambda stage, folder: _once(stage, folder, _assess),
    "import again": lambda stage, folder: _once(stage, folder, _scans),
    "import of DICOM again": lambda stage, folder: _once(stage, folder, _slices),
    "refresh": lambda stage, folder: _of_imported(stage, folder, "refresh"),
    "volumes": lambda stage, folder: _of_imported(
        stage, folder, "volumes", "--encoder=scratch", "--profile=small", "--workers=1"
    ),
    "doctor": lambda stage, folder: ["doctor", f"--data={_tiny(stage, folder)}", f"--runs={folder / 'runs'}"],
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
