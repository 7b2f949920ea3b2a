"""Who may import whom, and what no file may say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from datamodules import batch
from lightning_modules.core import missing
from tests.rooms import FLOORS, PAGE, PICTURE, arrows, floor_of, imported, modules, picture, room, written

ROOT = Path(__file__).parents[1]
ROOMS = ("lightning_modules", "datamodules", "callbacks", "experiments")

FORBIDDEN = {
    "datamodules": ("lightning_modules", "callbacks", "experiments"),
    "lightning_modules": ("datamodules", "callbacks", "experiments"),
    "lightning_modules/networks": ("lightning", "datamodules"),
    "lightning_modules/losses": ("lightning", "datamodules", "monai", "torchmetrics"),
    "lightning_modules/metrics": ("lightning", "datamodules"),
    "callbacks": ("datamodules", "experiments"),
}


def _files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_rooms_import_only_what_they_may(folder: str) -> None:
    bad = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in _files(folder)
        for name in imported(path)
        if name.split(".")[0] in FORBIDDEN[folder]
    ]
    assert bad == []


@pytest.mark.parametrize("package", FLOORS)
def test_every_room_has_its_floor(package: str) -> None:
    rooms = {found[1] for found in map(room, modules()) if found is not None and found[0] == package}
    assert rooms == set(floor_of(package)), "a new room gets a floor in tests/rooms.py, one that went leaves it"


@pytest.mark.parametrize("package", FLOORS)
def test_a_room_imports_rooms_below_it_only(package: str) -> None:
    floor = floor_of(package)
    bad = {
        f"{source} imports {target}": files
        for (owner, source, target), files in arrows().items()
        if owner == package and floor[target] >= floor[source]
    }
    assert bad == {}


def test_the_page_and_its_picture_show_the_imports_of_the_code() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == written(page), "run `python -m tests.rooms`"
    assert PICTURE.read_text(encoding="utf-8") == picture(), "run `python -m tests.rooms`"


def test_the_page_names_files_that_exist() -> None:
    named = re.findall(r"`((?:datamodules|lightning_modules|callbacks|experiments)/[\w/.]*)`", PAGE.read_text())
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_what_is_not_known_has_one_value() -> None:
    """Neither package imports the other, so each has the constant once."""
    code = re.compile(r"(?m)^[^#\"'\n]*(?:=|\() ?-100\b")
    found = [path for package in FLOORS for path in _files(package) if code.search(path.read_text(encoding="utf-8"))]
    assert found == [ROOT / "datamodules/batch.py", ROOT / "lightning_modules/core/missing.py"]
    assert batch.MISSING == missing.MISSING


def test_callbacks_import_metrics_at_most() -> None:
    names = {name for path in _files("callbacks") for name in imported(path) if name.startswith("lightning_modules")}
    assert all(name.startswith("lightning_modules.metrics") for name in names)


def test_tests_alone_import_scikit_survival() -> None:
    """It is GPL-3, and in the `dev` extra alone."""
    users = [
        path for room in ROOMS for path in _files(room) if any(n.split(".")[0] == "sksurv" for n in imported(path))
    ]
    assert users == []
    needed = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.optional-dependencies]")[0]
    assert "scikit-survival" not in needed


def test_the_whole_stack_imports_together() -> None:
    import accelerate
    import bitsandbytes
    import lightning
    import litdata
    import mlflow
    import monai
    import optuna
    import peft
    import pycox
    import torchio
    import torchmetrics
    import transformers

    stack = (accelerate, bitsandbytes, lightning, litdata, mlflow, monai, optuna, peft, pycox, torchio, torchmetrics)
    assert all(module.__name__ for module in (*stack, transformers))


def test_every_parser_stands_behind_the_gate() -> None:
    parsers = re.compile(
        r"^from (jsonargparse|lightning\.pytorch\.cli) import .*(ArgumentParser|auto_cli|LightningCLI)", re.MULTILINE
    )
    found = {path: path.read_text(encoding="utf-8") for room in ROOMS for path in _files(room)}
    makers = {path for path, text in found.items() if parsers.search(text)}
    assert makers
    behind = re.compile(
        r"^from experiments\.runs\.(gate|suite_cli) import", re.MULTILINE
    )  # the second imports the first
    assert [path.name for path in makers if not behind.search(found[path])] == []


def test_no_file_runs_yaml_or_pickles() -> None:
    banned = ("yaml.load(", "yaml.unsafe_load", "weights_only=False", "allow_pickle=True", "pickle.load", "eval(")
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for room in ROOMS
        for path in _files(room)
        for word in banned
        # A word of its own: "retrieval(" runs nothing.
        if re.search(rf"(?<!\w){re.escape(word)}", path.read_text(encoding="utf-8").replace(".eval()", ""))
    ]
    assert found == []
