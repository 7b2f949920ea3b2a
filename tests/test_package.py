"""What is installed: a wheel with one package that needs no checkout, a container, an environment of conda."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[1]
ROOMS = ("datamodules", "lightning_modules", "callbacks", "experiments")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """setup.py as a module."""
    spec = importlib.util.spec_from_file_location("suite_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tree() -> set[Path]:
    """Files of the packages, below the root."""
    found = {path for room in (*ROOMS, "renal_vlm") for path in (ROOT / room).rglob("*") if path.is_file()}
    return {path.relative_to(ROOT) for path in found if "__pycache__" not in path.parts}


def test_every_file_beside_the_code_is_packaged() -> None:
    """Of a pattern without a match, or a new template without a pattern, only an installed suite would know."""
    packaged = set()
    for package, patterns in PROJECT["tool"]["setuptools"]["package-data"].items():
        for pattern in patterns:
            matched = {path.relative_to(ROOT) for path in (ROOT / package).glob(pattern) if path.is_file()}
            assert matched, f"{package}: {pattern} matches nothing"
            packaged |= matched
    assert {path for path in tree() if path.suffix != ".py"} == packaged


@pytest.mark.slow
def test_nothing_in_a_wheel_calls_a_package_by_its_name_in_the_checkout(build: ModuleType) -> None:
    whole = re.compile(rf"(?:{'|'.join(ROOMS)})(?:\.[\w.:]*)")
    left = []
    for path in sorted(tree()):
        text = (ROOT / path).read_text(encoding="utf-8")
        if path.suffix == ".yaml":
            named = re.findall(r"class_path: *[\"']?([\w.]+)", build.moved_yaml(text))
            left += [f"{path}: {name}" for name in named if name.split(".")[0] in ROOMS]
        if path.suffix != ".py":
            continue
        moved = build.moved(text)
        assert moved.count("\n") == text.count("\n"), path
        for node in ast.walk(ast.parse(moved)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and whole.fullmatch(node.value):
                names.append(node.value)
            left += [f"{path}:{node.lineno}: {name}" for name in names if name.split(".")[0] in ROOMS]
    assert left == []


def test_a_module_is_moved_word_by_word(build: ModuleType) -> None:
    source = """from callbacks.progress import Throughput
import experiments
def f():
    from datamodules import (
        Cohort,
    )
    callbacks = settings["callbacks"]
    return callbacks.progress, "callbacks.progress.Throughput", f"experiments.{name}"
words = "experiments.cli:main", "see callbacks."
"""
    expected = """from renal_vlm.callbacks.progress import Throughput
from renal_vlm import experiments
def f():
    from renal_vlm.datamodules import (
        Cohort,
    )
    callbacks = settings["callbacks"]
    return callbacks.progress, "renal_vlm.callbacks.progress.Throughput", f"renal_vlm.experiments.{name}"
words = "renal_vlm.experiments.cli:main", "see callbacks."
"""
    assert build.moved(source) == expected
    with pytest.raises(ValueError, match="line 1: import one package"):
        build.moved("import experiments.registry\n")


USE = """
import importlib, sys
from renal_vlm.experiments.front_door.commands import COMMANDS
from renal_vlm.experiments.runs.gate import SUITE
for place in COMMANDS.values():
    module, name = place.split(":")
    getattr(importlib.import_module(module), name)
for place in SUITE:
    module, _, name = place.rpartition(".")
    getattr(importlib.import_module(module), name)
from renal_vlm import RoiDataModule, load_encoder
assert RoiDataModule.__module__ == "renal_vlm.datamodules.tasks"
own = {"datamodules", "lightning_modules", "callbacks", "experiments"}
assert not own & set(sys.modules), own & set(sys.modules)
import callbacks
assert callbacks.FOREIGN
"""


@pytest.mark.slow
def test_a_wheel_works_outside_the_checkout_beside_packages_of_the_same_names(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    for room in (*ROOMS, "renal_vlm"):
        shutil.copytree(ROOT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "wheels", "."]
    subprocess.run(wheel, cwd=copy, check=True, capture_output=True)
    (built,) = (copy / "wheels").glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        names = archive.namelist()
        assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"renal_vlm"}
        installed = {name.removeprefix("renal_vlm/") for name in names}
        own = {path.relative_to("renal_vlm").as_posix() for path in tree() if path.parts[0] == "renal_vlm"}
        assert {path.as_posix() for path in tree() if path.parts[0] != "renal_vlm"} | own <= installed
        (top,) = (name for name in names if name.endswith("top_level.txt"))
        assert archive.read(top).split() == [b"renal_vlm"]
        archive.extractall(tmp_path / "site")
    shutil.rmtree(copy)
    for room in ROOMS:
        (tmp_path / "site" / room).mkdir()
        (tmp_path / "site" / room / "__init__.py").write_text("FOREIGN = True\n")
    work = tmp_path / "work"
    work.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", USE], cwd=work, env=environment, check=True)

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        start = "import sys; from renal_vlm.command import main; sys.exit(main())"
        whole = [sys.executable, "-c", start, *words]
        return subprocess.run(whole, cwd=work, env=environment, capture_output=True, text=True, check=False)

    drawn = command("cohort", "OUT=data/few", "PATIENTS=48", "PRETRAINING=0", "WORKERS=1")
    assert drawn.returncode == 0, drawn.stderr
    assert (work / "data/few/cohort.json").is_file()
    refused = command("finetune", "TASK=rsf")
    assert (refused.returncode, "Did you mean rfs?" in refused.stderr) == (2, True)
    assert "checkout" in command("benchmarks").stderr
    assert sorted(path.name for path in work.iterdir()) == ["data"]


def test_conda_installs_what_make_installs() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"$(filter {environment['name']},$(CONDA_DEFAULT_ENV))" in makefile
    *plain, last = environment["dependencies"]
    python = next(entry.split("=")[1] for entry in plain if entry.startswith("python="))
    low, high = re.findall(r"[<>]=?3\.(\d+)", PROJECT["project"]["requires-python"])
    assert int(low) <= int(python.split(".")[1]) < int(high)
    pip = next(entry.removeprefix("pip") for entry in plain if entry.startswith("pip"))
    assert f'"pip{pip}"' in makefile
    constraint, editable = last["pip"]
    assert f'{constraint} --editable "{editable.split()[1]}"' in makefile
    assert (ROOT / constraint.split()[1]).is_file()
    extras = set(re.findall(r"[\w-]+", editable.split("[")[1]))
    assert extras <= set(PROJECT["project"]["optional-dependencies"])


def _dockerfile() -> str:
    return re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8"))


def test_the_container_copies_what_a_wheel_is_built_from() -> None:
    copied = {word for line in re.findall(r"(?m)^COPY (.*) \S+$", _dockerfile()) for word in line.split()}
    assert set(ROOMS) | {"renal_vlm", "setup.py", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"} == copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")}
    assert sent == copied


def test_the_container_is_pinned_and_nobody_in_it_is_root() -> None:
    text = _dockerfile()
    assert re.search(r"(?m)^FROM python:3\.11-\S+$", text)
    assert re.search(r"(?m)^USER [1-9]\d*$", text)
    installs = re.findall(r"pip install [^&;]*", text)
    assert len(installs) == 5
    assert all("--constraint constraints.txt" in command for command in installs)
    groups = re.findall(r"--group ([\w-]+)", text)
    assert set(groups) == {"no-deps", "radiomics-no-deps"} <= set(PROJECT["dependency-groups"])
    assert re.search(r"case \"\$DEVICE\" in\s+cpu\).*cuda\).*\*\).*exit 2", text)


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not here")
def test_hadolint_finds_nothing() -> None:
    subprocess.run(["hadolint", str(ROOT / "Dockerfile")], check=True)


def test_one_version_and_a_changelog_for_it() -> None:
    version = PROJECT["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    headings = re.findall(r"(?m)^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert headings[0] == "Unreleased" or headings[0].startswith(version)


def test_hooks_check_with_the_versions_that_are_tested() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    revisions = {hook["repo"].rsplit("/", 1)[1]: hook["rev"] for hook in hooks}
    pinned = dict(re.findall(r"(?m)^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8")))
    assert revisions["ruff-pre-commit"] == f"v{pinned['ruff']}"
    assert "typos" in revisions
