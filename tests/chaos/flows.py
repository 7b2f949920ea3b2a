"""The commands that are killed, and the files by which they are known to have ended as an undisturbed one does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tests.chaos.stage import IMAGE, POINT, Stage, import_manifest, in_processes


@dataclass(frozen=True)
class Flow:
    """A command and what it leaves.

    Args:
        name: Name of the command.
        prepare: Puts what it reads into a folder and a folder of runs, and gives the command.
        results: Files that must be equal, as patterns below the folder and the folder of runs.
    """

    name: str
    prepare: Callable[[Stage, Path, Path], list[str]]
    results: tuple[str, ...]


def _where(stage: Stage, runs: Path, data: str = "tiny") -> list[str]:
    return [f"--data={stage.root / data}", f"--runs={runs}"]


def _many_scans(stage: Stage, folder: Path, runs: Path) -> list[str]:
    path = stage.copy("scans", folder) / "manifest.csv"
    frame = pd.read_csv(path)
    rows = [
        row | {"patient_id": f"{row['patient_id']}{n}", "study_id": f"{row['study_id']}{n}", "series_id": f"s{n}{m}"}
        for n in range(5)
        for m, row in enumerate(frame.to_dict("records"))
    ]
    pd.DataFrame(rows).to_csv(path, index=False)
    return in_processes(import_manifest(folder))


def _attributes(stage: Stage, folder: Path, runs: Path) -> list[str]:
    return ["attributes", f"--data={stage.copy('tiny', folder)}"]


def _stage(name: str, *flags: str, base: bool = False) -> Callable[[Stage, Path, Path], list[str]]:
    def prepare(stage: Stage, folder: Path, runs: Path) -> list[str]:
        own = [
            f"--config={stage.root / 'tiny.yaml'}",
            *flags,
            *([f"--text.base={stage.root / 'base'}"] if base else []),
        ]
        where = _where(stage, runs, "texts" if base else "tiny")
        return ["pretrain", f"--stages=[{name}]", *where, "--extra=" + json.dumps(own)]

    return prepare


def _sweep(stage: Stage, folder: Path, runs: Path) -> list[str]:
    space = folder / "space.yaml"
    space.write_text("optimizer.lr: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}\n")
    return ["sweep", "--task=malignancy", *_where(stage, runs), f"--space={space}", "--trials=3", stage.flags]


def _after_a_point(*command: str) -> Callable[[Stage, Path, Path], list[str]]:
    def prepare(stage: Stage, folder: Path, runs: Path) -> list[str]:
        shutil.copytree(stage.root / "runs", runs, dirs_exist_ok=True)
        return [*command, *_where(stage, runs), f"--out={folder / 'written'}"]

    return prepare


def _alignment(stage: Stage, folder: Path, runs: Path) -> list[str]:
    shutil.copytree(stage.root / "runs", runs, dirs_exist_ok=True)  # for its encoders
    own = [f"--config={stage.root / 'tiny.yaml'}", f"--text.base={stage.root / 'base'}"]
    return ["pretrain", "--stages=[alignment]", *_where(stage, runs), "--extra=" + json.dumps(own)]


def _radiomics(stage: Stage, folder: Path, runs: Path) -> list[str]:
    return ["radiomics", f"--data={stage.root / 'imported'}", f"--runs={runs}", "--workers=2"]


def _generate(stage: Stage, folder: Path, runs: Path) -> list[str]:
    shutil.copytree(stage.root / "runs", runs, dirs_exist_ok=True)  # for its image encoder
    return ["generate", "--systems=[template]", *_where(stage, runs), stage.flags]


TEXT = ("--text.layers=1", "--text.lora_rank=4", "--text.max_length=32", "--data.init_args.batch_size=4",
        "--trainer.limit_train_batches=4")  # fmt: skip
FLOWS = (
    Flow("cohort", lambda s, f, r: ["cohort", f"--out={f / 'out'}", "--patients=48", "--workers=2"],
         ("out/*.parquet", "out/cohort.json", "out/volumes/**/*.bin", "out/volumes/**/*.npz")),
    Flow("import", _many_scans, ("out/*.parquet", "out/volumes/**/*.bin", "out/volumes/**/*.npz")),
    Flow("attributes", _attributes, ("tiny/attributes.parquet",)),
    Flow("pretrain image", _stage("image"), (f"{IMAGE}/predictions.parquet", f"{IMAGE}/attributes.csv")),
    Flow("pretrain text", _stage("text:mntp", *TEXT, base=True),
         ("renal/*/pretrain/text-s42/mntp/checkpoints/last.ckpt",)),
    Flow("pretrain text in three", _stage("text", *TEXT, "--text.projection=16", base=True),
         ("renal/*/pretrain/text-s42/*/checkpoints/last.ckpt",)),
    Flow("pretrain alignment", _alignment, ("renal/*/pretrain/alignment-s42/checkpoints/last.ckpt",)),
    Flow("refresh", lambda s, f, r: s.of_imported(f, "refresh"), ("imported/*.parquet", "imported/cohort.json")),
    Flow("volumes", lambda s, f, r: s.of_imported(f, "volumes", "--encoder=scratch", "--profile=small", "--workers=1"),
         ("imported/volumes/**/*.bin", "imported/volumes/**/*.npz")),
    Flow("assess", lambda s, f, r: s.assess(f, 6),
         ("out/*/assessment.json", "out/*/assessment.html", "out/assessments.csv", "out/assessments.parquet")),
    Flow("finetune", lambda s, f, r: ["finetune", "--task=malignancy", *_where(s, r), s.flags],
         (f"{POINT}/predictions.parquet", f"{POINT}/results.csv")),
    Flow("curve in two jobs", lambda s, f, r: [
        "curve", "--task=malignancy", "--encoders=[scratch]", "--fractions=[0.5,1.0]", "--seeds=[42]", "--jobs=2",
        *_where(s, r), s.flags], ("renal/**/predictions.parquet", "renal/**/curve*.csv")),
    Flow("sweep", _sweep, ("renal/**/best.yaml",)),
    Flow("radiomics", _radiomics, ("renal/**/radiomics-*.parquet",)),
    Flow("generate", _generate, ("renal/**/generated.parquet",)),
    Flow("report", _after_a_point("report", "--tasks=[malignancy]"), ("written/**/*.csv",)),
)  # fmt: skip
