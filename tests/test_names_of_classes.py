"""Classes that a user configures or derives from stand at the top of their package, whatever file they are in."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.runs.gate import SUITE
from experiments.runs.launch import identity
from lightning_modules.core.errors import ModelError
from lightning_modules.core.suite_module import check_checkpoint

ROOT = Path(__file__).parents[1]
PACKAGES = ("datamodules", "lightning_modules")


@pytest.mark.parametrize("package", [*PACKAGES, "renal_vlm"])
def test_what_type_checkers_see_is_what_there_is(package: str) -> None:
    tree = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    module = importlib.import_module(package)
    assert seen == getattr(module, "LOADERS", module.PLACES)
    for name, place in seen.items():
        assert getattr(module, name) is getattr(importlib.import_module(str(place)), name)
    assert set(seen) <= set(dir(module))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = module.Nothing


def test_a_notebook_finds_all_of_them_in_one_package() -> None:
    import renal_vlm

    for package in map(importlib.import_module, PACKAGES):
        for name in package.PLACES:
            assert getattr(renal_vlm, name) is getattr(package, name)


def test_whoever_needs_an_error_waits_for_no_library() -> None:
    code = "import sys; from datamodules.errors import DataError; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_configuration_names_classes_without_their_file() -> None:
    names = [name for name in SUITE if name.split(".")[0] in PACKAGES]
    assert names
    assert all(name.count(".") == 1 for name in names)
    assert len({name.rpartition(".")[2] for name in SUITE}) == len(SUITE)  # a name says which class it is


def test_a_run_is_known_again_after_its_classes_moved() -> None:
    def run(path: str, lr: float = 1e-3) -> dict[str, object]:
        return identity({"model": {"class_path": path, "init_args": {"lr": lr}}})

    stored = run("lightning_modules.survival.Survival")
    assert stored == run("lightning_modules.Survival")
    assert stored != run("lightning_modules.Classification")
    assert stored != run("lightning_modules.Survival", lr=1e-4)


def test_a_checkpoint_is_known_again_after_its_class_moved() -> None:
    stored = {"renal_suite": {"module": "lightning_modules.survival.Survival", "contract": {}}}
    check_checkpoint(stored, "lightning_modules.downstream.survival.Survival", {})
    with pytest.raises(ModelError, match=r"holds lightning_modules\.survival\.Survival"):
        check_checkpoint(stored, "lightning_modules.downstream.classification.Classification", {})
