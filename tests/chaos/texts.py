"""Hostile YAML, CSV, JSON and names, drawn by seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from tests.chaos.sandbox import CANARY, Case
from tests.chaos.stage import IMAGE, POINT, Stage, import_manifest, statuses

_BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
YAML: dict[str, str] = {
    "class by short form": f"trainer:\n  callbacks:\n  - {CANARY}.E\n",
    "class by path": f"trainer:\n  callbacks:\n  - class_path: {CANARY}.E\n",
    "class by one name": f"trainer:\n  callbacks: {CANARY}.E\n",
    "appended": f"trainer:\n  callbacks+: {CANARY}.E\n",
    "appended list": f"trainer:\n  callbacks+:\n  - {CANARY}.E\n",
    "callable": "trainer:\n  callbacks:\n  - class_path: LambdaCallback\n"
    f"    init_args:\n      on_fit_start: {CANARY}.f\n",
    "nested file": "trainer:\n  callbacks: other.yaml\n",
    "nested class": f"model:\n  class_path: {CANARY}.E\n",
    "optimiser": f"optimizer: {CANARY}.E\n",
    "data class": f"data:\n  class_path: {CANARY}.E\n",
    "data by short form": f"data: {CANARY}.E\n",
    "logger": f"trainer:\n  logger: {CANARY}.E\n",
    "strategy": f"trainer:\n  strategy: {CANARY}.E\n",
    "profiler": f"trainer:\n  profiler: {CANARY}.E\n",
    "plugins": f"trainer:\n  plugins: [{CANARY}.E]\n",
    "python object": f"x: !!python/object/apply:{CANARY}.f []\n",
    "python name": f"trainer:\n  callbacks: !!python/name:{CANARY}.E\n",
    "python module": f"x: !!python/module:{CANARY}\n",
    "os.system": "trainer:\n  callbacks:\n  - class_path: os.system\n    init_args: {command: touch CANARY}\n",
    "subprocess": "trainer:\n  callbacks:\n  - class_path: subprocess.Popen\n    init_args: {args: [touch, CANARY]}\n",
    "bomb": _BOMB,
    "bomb in a value": _BOMB + "optimizer: *a9\n",
    "deep": "optimizer: " + "[" * 20_000 + "]" * 20_000 + "\n",
    "deep mapping": "".join(" " * n + "a:\n" for n in range(3_000)),
    "recursive": "optimizer: &a\n  lr: *a\n",
    "huge number": "seed_everything: 1" + "0" * 10_000 + "\n",
    "negative seed": "seed_everything: -1\n",
    "wrong type": "optimizer: {lr: [1, 2]}\n",
    "no number": "optimizer: {lr: .nan}\n",
    "infinite": "optimizer: {lr: .inf}\n",
    "unknown key": "optimiser: {lr: 0.1}\n",
    "a list": "- 1\n- 2\n",
    "a word": "lr\n",
    "empty": "",
    "null": "optimizer: null\n",
    "tabs": "optimizer:\n\tlr: 1\n",
    "half": "optimizer: {lr: 0.1",
    "bytes": "\x00\x01\xff",
    "two documents": "optimizer: {lr: 0.1}\n---\noptimizer: {lr: 0.2}\n",
    "doubled key": "optimizer: {lr: 0.1}\noptimizer: {lr: 0.2}\n",
    "harmless": "optimizer: {lr: 0.001}\n",
    "environment": 'optimizer: {lr: "${oc.env:HOME}"}\n',
}
_HARMLESS = {"harmless", "empty", "null"}


def yaml_cases(stage: Stage, rng: np.random.Generator, count: int) -> Iterator[Case]:
    """Parameters of a training that ask for code, or are no parameters; half by PARAMS=, half as a configuration."""
    names = list(YAML)
    for number in range(count):
        name = names[number % len(names)]
        by_params = bool(rng.integers(2)) if number < len(names) else not bool(rng.integers(2))

        def prepare(folder: Path, name: str = name, by_params: bool = by_params) -> list[str]:
            (folder / "x.yaml").write_text(YAML[name], encoding="latin-1")
            (folder / "other.yaml").write_text(f"- {CANARY}.E\n")
            if by_params:
                return stage.finetune(folder, "--params=x.yaml")
            flags = [f"--config={stage.root / 'tiny.yaml'}", "--config=x.yaml"]
            return [*stage.finetune(folder)[:4], "--extra=" + json.dumps(flags)]

        yield Case("YAML", f"{name} by {'PARAMS' if by_params else 'config'}", prepare, _finished_if(name in _HARMLESS))


def _finished_if(harmless: bool) -> Callable[[Path], bool]:
    return lambda folder: harmless and (folder / "runs" / POINT / "DONE").is_file()


def put(path: Path, content: str | bytes) -> None:
    """Write what a case put in the place of a file."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def _edited(frame: pd.DataFrame, column: str, value: object) -> str:
    frame = frame.astype(object)
    frame.loc[1, column] = value
    return str(frame.to_csv(index=False))


CSV: dict[str, tuple[Callable[[str, pd.DataFrame], str | bytes], bool]] = {
    "nothing": (lambda text, frame: "", False),
    "header alone": (lambda text, frame: text.splitlines()[0] + "\n", False),
    "bytes": (lambda text, frame: bytes(range(256)) * 20, False),
    "half": (lambda text, frame: text[: len(text) // 2], False),
    "marked UTF-8": (lambda text, frame: "\ufeff" + text, True),
    "UTF-16": (lambda text, frame: text.encode("utf-16"), True),
    "latin-1": (lambda text, frame: text.replace("A", "Köln").encode("latin-1"), False),
    "DOS lines": (lambda text, frame: text.replace("\n", "\r\n"), True),
    "a column twice": (lambda text, frame: pd.concat([frame, frame[["image"]]], axis=1).to_csv(index=False), False),
    "no image": (lambda text, frame: frame.drop(columns="image").to_csv(index=False), False),
    "unknown column": (lambda text, frame: frame.assign(PatientName="Doe^Jane").to_csv(index=False), False),
    "open quote": (lambda text, frame: text + '"', False),
    "long row": (lambda text, frame: text + "x," * 5000 + "\n", False),
    "long cell": (lambda text, frame: _edited(frame, "center", "x" * 1_000_000), False),
    "NUL in an id": (lambda text, frame: _edited(frame, "patient_id", "p0\0"), False),
    "NUL makes two one": (lambda text, frame: _edited(frame, "patient_id", "p0\0x"), False),
    "bar in a study": (lambda text, frame: _edited(frame, "study_id", "e|left"), False),
    "climbing id": (lambda text, frame: _edited(frame, "patient_id", "../../../../escaped"), False),
    "climbing image": (lambda text, frame: _edited(frame, "image", "../../../../../../etc/passwd"), False),
    "a device": (lambda text, frame: _edited(frame, "image", "/dev/zero"), False),
    "formula": (lambda text, frame: _edited(frame, "center", "=cmd|' /C calc'!A0"), False),
    "line in an id": (lambda text, frame: _edited(frame, "patient_id", "p1\nx"), False),
    "empty id": (lambda text, frame: _edited(frame, "patient_id", ""), False),
    "two centres of one": (lambda text, frame: _edited(frame.assign(center=[*"AAB"]), "patient_id", "p2"), False),
    "phase": (lambda text, frame: _edited(frame, "phase", "portal"), False),
    "thickness": (lambda text, frame: frame.assign(slice_thickness_mm=1e400).to_csv(index=False), False),
    "escape codes": (lambda text, frame: _edited(frame, "center", "\x1b[2J"), False),
    "right to left": (lambda text, frame: _edited(frame, "patient_id", "\u202ep1"), False),
    "spaces": (lambda text, frame: _edited(frame, "patient_id", " p0 "), False),
    "semicolons": (lambda text, frame: text.replace(",", ";"), False),
}


def csv_cases(stage: Stage, rng: np.random.Generator, count: int) -> Iterator[Case]:
    """Manifests with a hostile cell, or none of a table."""
    names = list(CSV)
    for number in range(count):
        name = names[number % len(names)]
        change, harmless = CSV[name]

        def prepare(folder: Path, change: Callable[[str, pd.DataFrame], str | bytes] = change) -> list[str]:
            path = stage.copy("scans", folder) / "manifest.csv"
            put(path, change(path.read_text(), pd.read_csv(path)))
            return import_manifest(folder)

        yield Case("CSV", name, prepare, lambda folder, ok=harmless: ok and statuses(folder) == ["imported"] * 3)


JSON: dict[str, Callable[[str], str | bytes]] = {
    "empty": lambda text: "",
    "half": lambda text: text[: len(text) // 2],
    "bytes": lambda text: bytes(range(256)),
    "a list": lambda text: "[]",
    "a number": lambda text: "7",
    "null": lambda text: "null",
    "deep": lambda text: "[" * 100_000 + "]" * 100_000,
    "huge number": lambda text: '{"version": 1' + "0" * 10_000 + "}",
    "not a number": lambda text: '{"name": NaN}',
    "other keys": lambda text: '{"__class__": "os.system"}',
    "types": lambda text: json.dumps({key: [] for key in json.loads(text)}),
    "numbers": lambda text: json.dumps(dict.fromkeys(json.loads(text), -1)),
    "marked": lambda text: "\ufeff" + text,
    "missing keys": lambda text: json.dumps(dict(list(json.loads(text).items())[1:])),
}
_FILES = (
    "cohort.json",
    "volumes/*/contract.json",
    "volumes/*/shards/index.json",
    "run.json",
    "encoder/config.json",
    "encoder/contract.json",
)


def json_cases(stage: Stage, rng: np.random.Generator, count: int) -> Iterator[Case]:
    """Cohorts, volume sets, runs and encoders that are described by something else."""
    grid = [(name, file) for name in JSON for file in _FILES]
    for place in rng.permutation(len(grid))[:count]:
        name, file = grid[int(place)]

        def prepare(folder: Path, name: str = name, file: str = file) -> list[str]:
            if file == "run.json":
                run = stage.copy_runs(folder) / POINT
                (run / "DONE").unlink()
                target, command = run / file, ["resume", str(run), f"--runs={folder / 'runs'}"]
            elif file.startswith("encoder"):
                target = stage.copy_runs(folder) / IMAGE / file
                command = stage.finetune(folder, "--encoder=stage1")
            else:
                (target,) = stage.copy("tiny", folder).glob(file)
                command = ["data-check", f"--data={folder / 'tiny'}"]
            put(target, JSON[name](target.read_text()))
            return command

        yield Case("JSON", f"{name} in {file}", prepare)


NAMES = (
    "../../../../escaped", "/tmp/escaped", "..", ".", "a/b", "a\\b", "a\0b", "x" * 5000, "a\nb", "\u202ex", "-rf",
    "$(touch CANARY)", "`touch CANARY`", "a;touch CANARY", "a|b", "~", "%s%s%n", " ", "{x}", "é", "CON",
)  # fmt: skip


def name_cases(stage: Stage, rng: np.random.Generator, count: int) -> Iterator[Case]:
    """Tags, cohorts and runs of names that are more than names."""
    for number in range(count):
        name = NAMES[number % len(NAMES)]
        what = ("tag", "cohort", "pretrained", "plan")[int(rng.integers(4))]

        def prepare(folder: Path, name: str = name, what: str = what) -> list[str]:
            if what == "plan":
                stage.copy("scans", folder)
                return [*import_manifest(folder)[:-1], "--options=" + json.dumps({"plan": {"name": name}})]
            if what == "cohort":
                path = stage.copy("tiny", folder) / "cohort.json"
                path.write_text(json.dumps(json.loads(path.read_text()) | {"name": name}))
                return stage.finetune(folder, data=folder / "tiny")
            if what == "pretrained":
                stage.copy_runs(folder)
                return stage.finetune(folder, "--encoder=stage1", f"--pretrained=s42-{name}")
            return stage.finetune(folder, f"--tag={name}")

        yield Case("name", f"{what} {name[:24]!r}", prepare, lambda folder, name=name: name in ("é", "CON"))


NUMBERS: dict[str, tuple[str, ...]] = {
    "finetune": (
        "--seed=-1", f"--seed={2**40}", f"--seed_everything={2**40}", "--fraction=-1", "--fraction=.nan",
        "--fraction=1e400", "--devices=-7", "--nodes=0",
    ),
    "curve": ("--seeds=[-1]", f"--seeds=[42,{2**40}]", "--fractions=[0]", "--fractions=[]", "--jobs=0"),
    "sweep": ("--seed=-1", "--trials=-1"),
    "cohort": ("--seed=-1", f"--seed={2**40}", "--patients=-5", "--patients=0", "--workers=-1"),
}  # fmt: skip


def number_cases(stage: Stage, rng: np.random.Generator, count: int) -> Iterator[Case]:
    """Seeds, shares and counts that are none."""
    flags = [(command, flag) for command, those in NUMBERS.items() for flag in those]
    for place in rng.permutation(len(flags))[:count]:
        command, flag = flags[int(place)]

        def prepare(folder: Path, command: str = command, flag: str = flag) -> list[str]:
            if command == "cohort":
                return [command, f"--out={folder / 'out'}", *([] if "patients" in flag else ["--patients=60"]), flag]
            return [command, *stage.finetune(folder)[1:], flag]

        yield Case("number", f"{command} {flag}", prepare)
