"""Hostile patients, results, models and settings of an assessment, drawn by seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from tests.chaos.sandbox import CANARY, Case, ask
from tests.chaos.scans import bad_nifti
from tests.chaos.stage import ENCODER, MALIGNANCY, Stage
from tests.chaos.texts import JSON, put

_EARLIER = ("out/{}/assessment.json", "out/{}/input.json", "out/{}/refused.json")
_MODELS = (f"{ENCODER}/likeness.json", f"{ENCODER}/attribute_heads.json", f"{MALIGNANCY}/head/head.json")
FOLDERS = (
    "a\nb", "\u202ex", "-rf", "$(touch CANARY)", "`touch CANARY`", "=cmd|' C calc'!A0", "\x1b[2J", " ", "é", "x" * 200,
    "assessments.csv", "a|b", "{x}", "%s%n", "CON",
)  # fmt: skip
SETTINGS = (
    "--tag=../../escaped", "--tag=a\0b", "--pretrained=s42-../..", "--pretrained=..", "--encoder=../..", "--mode=../x",
    "--fold=-1", "--fold=3", f"--seed={2**70}", "--seed=-1", "--phase=../venous", "--intensity=guessed",
    f"--labels=!!python/object/apply:{CANARY}.f []", f"--labels={{1: !!python/name:{CANARY}.f}}",
    "--labels={1: '../../escaped'}", f"--box=!!python/module:{CANARY}", "--box={left: nan nan nan nan nan nan}",
    "--box={left: 1e400 0 0 1 1 1}", "--box={../../escaped: 0 0 0 9 9 9}", "--mask=[/dev/zero]", "--mask=['a\0b']",
)  # fmt: skip


def finished(out: Path) -> dict[str, str]:
    """What an assessment of several patients left: the assessment of each, by what it is called."""
    return {path.parent.name: path.read_text() for path in sorted(out.glob("*/assessment.json"))}


def as_undamaged(stage: Stage, folder: Path) -> bool:
    """Whether the results are those of undamaged patients and models."""
    return finished(folder / "out") == finished(stage.root / "assessed")


def accounted(stage: Stage, folder: Path) -> bool:
    """Whether the results are those of undamaged models, or say what is missing, or say nothing of any patient."""
    found = [json.loads(text) for text in finished(folder / "out").values()]
    left_out = [one["models"]["tasks_without_a_model"].get("malignancy") for one in found]
    outside = [kidney["training_data"]["outside_training"] for one in found for kidney in one["kidneys"]]
    return as_undamaged(stage, folder) or (bool(found) and (all(left_out) or all(outside)))


def one_refused(folder: Path) -> bool:
    """Whether one patient alone was refused, with a reason."""
    path = folder / "out" / "assessments.parquet"
    if not path.is_file():
        return False
    table = pd.read_parquet(path)
    lost = table[table["status"] != "assessed"]
    return len(table) == 3 and len(lost) == 1 and bool(lost["reason"].str.len().min() > 0)


def assess_cases(stage: Stage, rng: np.random.Generator, count: int) -> Iterator[Case]:
    """Scans, results of an earlier call, files beside the models, names of folders and settings."""
    makers = (_scan, _earlier, _model, _folder, _setting)
    for number in range(count):
        yield makers[number % len(makers)](stage, rng, number // len(makers))


def _scan(stage: Stage, rng: np.random.Generator, number: int) -> Case:
    seed, how = int(rng.integers(2**31)), str(rng.choice(["field", "field", "bytes", "cut", "archive"]))

    def prepare(folder: Path) -> list[str]:
        command = stage.assess(folder)
        paths = sorted((folder / "patients" / "E1-0002").glob("*.nii.gz"))
        bad_nifti(paths[seed % len(paths)], how, seed)
        return command

    def harmless(folder: Path) -> bool:
        return len(finished(folder / "out")) == 3

    return Case("assess", f"scan: {how} {seed}", prepare, harmless, one_refused)


def _json(rng: np.random.Generator, files: tuple[str, ...]) -> tuple[str, str, Callable[[str], str | bytes]]:
    names = list(JSON)
    name = names[int(rng.integers(len(names)))]
    return name, files[int(rng.integers(len(files)))], JSON[name]


def _change(path: Path, change: Callable[[str], str | bytes]) -> None:
    put(path, change(path.read_text() if path.is_file() else '{"reason": "", "fingerprint": ""}'))


def _earlier(stage: Stage, rng: np.random.Generator, number: int) -> Case:
    name, file, change = _json(rng, _EARLIER)

    def prepare(folder: Path) -> list[str]:
        command = stage.assess(folder)
        ask(command, folder)
        _change(folder / file.format(sorted(finished(folder / "out"))[1]), change)
        return command

    return Case("assess", f"{name} in {file}", prepare, lambda folder: as_undamaged(stage, folder))


def _model(stage: Stage, rng: np.random.Generator, number: int) -> Case:
    name, file, change = _json(rng, _MODELS)

    def prepare(folder: Path) -> list[str]:
        stage.copy("assess", folder)
        _change(folder / file, change)
        return stage.assess(folder)

    return Case("assess", f"{name} in {Path(file).name}", prepare, lambda folder: accounted(stage, folder))


def _folder(stage: Stage, rng: np.random.Generator, number: int) -> Case:
    name, identified = FOLDERS[number % len(FOLDERS)], bool(rng.integers(2))

    def prepare(folder: Path) -> list[str]:
        command = stage.assess(folder)
        (folder / "patients" / "E1-0002").rename(folder / "patients" / name)
        return [*command, f"--identified={'true' if identified else 'false'}"]

    def right(folder: Path) -> bool:
        table = (folder / "out" / "assessments.csv").read_text()
        return len(finished(folder / "out")) == 3 and "\n=" not in table and "\x1b" not in table

    return Case("assess", f"folder {name[:20]!r}, named: {identified}", prepare, right)


def _setting(stage: Stage, rng: np.random.Generator, number: int) -> Case:
    flag = SETTINGS[number % len(SETTINGS)]

    def prepare(folder: Path) -> list[str]:
        command = stage.assess(folder)
        if flag.startswith(("--box", "--mask")):  # of one patient
            command[1] = f"--source={folder / 'patients' / 'E1-0001'}"
        return [*command, flag]

    return Case("assess", f"setting {flag[:40]!r}", prepare)
