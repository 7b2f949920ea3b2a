"""Who may import whom, and what no file may say."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield str(node.module)


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_rooms_import_only_what_they_may(folder: str) -> None:
    bad = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in _files(folder)
        for name in _imports(path)
        if name.split(".")[0] in FORBIDDEN[folder]
    ]
    assert bad == []


def test_callbacks_import_metrics_at_most() -> None:
    names = {name for path in _files("callbacks") for name in _imports(path) if name.startswith("lightning_modules")}
    assert all(name.startswith("lightning_modules.metrics") for name in names)


def test_only_a_comparison_imports_scikit_survival() -> None:
    """It is GPL-3, and in the `dev` extra alone."""
    allowed = ROOT / "experiments/benchmarks/statistics.py"
    users = [
        path for room in ROOMS for path in _files(room) if any(n.split(".")[0] == "sksurv" for n in _imports(path))
    ]
    assert users == [allowed]
    top = ast.parse(allowed.read_text(encoding="utf-8")).body
    assert not any("sksurv" in ast.unparse(node) for node in top if isinstance(node, ast.Import | ast.ImportFrom))
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
