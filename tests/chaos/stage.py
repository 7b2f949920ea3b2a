"""What hostile inputs and faults are made of: a cohort, a run, an encoder, scans; made once, copied for every case."""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml
from mlflow.tracking import MlflowClient

from datamodules.cohort.cohort import Cohort
from datamodules.importers.builder import build_cohort
from tests.chaos.sandbox import ask
from tests.datamodules.importers.dicom_phantom import Scan, segmentation
from tests.datamodules.importers.nifti_phantom import labels, save, scan_hu
from tests.experiments.assessment.place import make_place, reference
from tests.experiments.pretraining.stages.test_alignment import export_text
from tests.experiments.pretraining.test_pretrain import write_reports
from tests.experiments.text_cohort import reports_cohort
from tests.tiny import CONTRACT, TinySource
from tests.tiny_text import make_base

SMALL = {
    "contract": {"grid": [8, 12, 12]},
    "augmentation": {"crop": [8, 10, 10]},
    "encoder": {"width": 4, "depth": 10, "stem_pool": True},
    "trainer": {"max_epochs": 2, "accelerator": "cpu"},
}
POINT = "renal/tiny/malignancy/scratch-finetune-f1-s42"
IMAGE = "renal/tiny/pretrain/image-s42"
ENCODER = "assess/runs/renal/few/pretrain/image-s42/encoder"
MALIGNANCY = "assess/runs/renal/few/malignancy/stage1-probe-f1-s42"
UID = "1.2.826.0.1.3680043.8.498."


@dataclass(frozen=True)
class Stage:
    """Folders to copy from.

    Args:
        root: Holds `tiny` (a cohort with reports), `runs` (a finished point and a pretrained image encoder), `scans`
            (a manifest of NIfTI files), `imported` (the cohort of these), `slices` (DICOM files) and `base` (a language
            model), `texts` (a cohort of reports), `empty` (runs without any), `assess` (scans of patients, a cohort and
            its finished probes), `assessed` (what an assessment of three of these patients left).
    """

    root: Path

    @property
    def flags(self) -> str:
        """Flags of a short training."""
        return "--extra=" + json.dumps([f"--config={self.root / 'tiny.yaml'}"])

    def copy(self, name: str, folder: Path) -> Path:
        """A copy of one of the folders; the one that is there, where a command is given again."""
        copied = folder / name
        if not copied.exists():
            shutil.copytree(self.root / name, copied, symlinks=True)
        return copied

    def copy_runs(self, folder: Path) -> Path:
        """A copy of the runs whose own descriptions speak of the copy."""
        runs = self.copy("runs", folder)
        for path in (*runs.rglob("run.json"), *runs.rglob("config.yaml")):
            path.write_text(path.read_text().replace(str(self.root / "runs"), str(runs)))
        return runs

    def assess(self, folder: Path, patients: int = 3) -> list[str]:
        """The command that assesses the patients of `folder/patients`, under one key of pseudonyms."""
        place = folder / "assess" if (folder / "assess").exists() else self.root / "assess"
        if not (folder / "patients").exists():
            for number in range(1, patients + 1):
                name = f"E1-{number:04d}"
                shutil.copytree(self.root / "assess" / "files" / name, folder / "patients" / name)
        if not (folder / "out.private").exists():
            (folder / "out.private").mkdir(mode=0o700)
            (folder / "out.private" / "pseudonyms.key").write_text("0" * 64)
            (folder / "out.private" / "pseudonyms.key").chmod(0o600)
        where = [f"--data={place / 'few'}", f"--runs={place / 'runs'}", f"--out={folder / 'out'}"]
        return ["assess", f"--source={folder / 'patients'}", *where, "--outside_training=true", "--intensity=rendered"]

    def of_imported(self, folder: Path, command: str, *more: str) -> list[str]:
        """A command on a copy of the imported cohort and the scans that it was made from."""
        source = [f"--source={self.root / 'scans' / 'manifest.csv'}", "--options={plan: {name: chaos}}"]
        return [command, f"--data={self.copy('imported', folder)}", *source, *more]

    def finetune(self, folder: Path, *more: str, data: Path | None = None) -> list[str]:
        """The command of a point whose runs lie in `folder`, in a store that holds none."""
        if not (folder / "runs").exists():
            shutil.copytree(self.root / "empty", folder / "runs")
        where = [f"--data={data or self.root / 'tiny'}", f"--runs={folder / 'runs'}"]
        return ["finetune", "--task=malignancy", *where, self.flags, *more]


def build(root: Path) -> Stage:
    """Make everything, by the suite's own commands."""
    root.mkdir(parents=True)
    stage = Stage(root)
    (root / "tiny.yaml").write_text(yaml.safe_dump(SMALL))
    build_cohort(TinySource(), root / "tiny", CONTRACT, workers=1)
    write_reports(root / "tiny")
    (root / "empty").mkdir()
    MlflowClient(f"sqlite:///{root / 'empty' / 'mlflow.db'}").search_experiments()
    for arguments in (
        stage.finetune(root),
        ["pretrain", "--stages=[image]", f"--data={root / 'tiny'}", f"--runs={root / 'runs'}", stage.flags],
    ):
        _done(arguments, root)
    make_base(root / "base", num_hidden_layers=2)
    reports_cohort(root / "texts", patients=60)
    export_text(root / "base", root / "runs", Cohort.load(root / "tiny"), 1)
    make_place(root / "assess")
    reference(root / ENCODER)
    _done(stage.assess(root), root)
    (root / "out").rename(root / "assessed")
    rows = []
    for number in range(3):
        save(root / "scans" / f"ct{number}.nii.gz", scan_hu(number))
        save(root / "scans" / f"mask{number}.nii.gz", labels())
        row = {"patient_id": f"p{number}", "study_id": f"e{number}", "series_id": f"s{number}", "center": "A"}
        rows.append(row | {"phase": "venous", "image": f"ct{number}.nii.gz", "mask": f"mask{number}.nii.gz"})
    pd.DataFrame(rows).to_csv(root / "scans" / "manifest.csv", index=False)
    _done(import_manifest(root), root, 3)
    (root / "out").rename(root / "imported")
    for number in range(3):
        study = f"{UID}{number + 1}"
        scan = Scan(patient=f"MRN-{number}", study=study, series=f"{study}.1", seed=number)
        scan.write(root / "slices" / str(number))
        segmentation(scan).save_as(root / "slices" / str(number) / "seg", enforce_file_format=True)
    _done(import_slices(root), root, 3)
    shutil.rmtree(root / "out")
    return stage


def _done(arguments: list[str], root: Path, imported: int = 0) -> None:
    """Run a command on undamaged data, and import what it did, so that every case, a fork of this process, has it."""
    answer = ask(arguments, root, limit_s=600, modules=root / "modules.txt")
    if answer.code != 0 or statuses(root) != ["imported"] * imported:
        raise RuntimeError(f"{arguments[0]} failed on undamaged data: {answer.text[-3000:]}")
    for name in (root / "modules.txt").read_text().splitlines():
        if name not in sys.modules:
            with contextlib.suppress(ImportError):  # some names are made by a module, for itself
                importlib.import_module(name)


def import_manifest(folder: Path) -> list[str]:
    """Import the manifest that lies in `folder/scans`."""
    return _import(folder / "scans" / "manifest.csv", folder, "{plan: {name: chaos}}")


def import_slices(folder: Path) -> list[str]:
    """Import the DICOM files that lie in `folder/slices`."""
    return _import(folder / "slices", folder, "{plan: {name: chaos}}")


def _import(source: Path, folder: Path, options: str) -> list[str]:
    return ["import", f"--source={source}", f"--out={folder / 'out'}", "--workers=1", f"--options={options}"]


def in_processes(command: list[str]) -> list[str]:
    """The same command with two processes."""
    return [flag if flag != "--workers=1" else "--workers=2" for flag in command]


def statuses(folder: Path) -> list[str]:
    """What an import says of each patient, sorted; empty where it wrote nothing."""
    path = folder / "out" / "import.parquet"
    return sorted(pd.read_parquet(path)["status"]) if path.is_file() else []
