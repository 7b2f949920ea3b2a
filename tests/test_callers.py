"""Nothing is written that only a test calls, and no name stands for two things."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from pathlib import Path

import lightning.pytorch as pl
import pytest
from huggingface_hub import ModelHubMixin
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import MLFlowLogger
from torchmetrics import Metric
from vulture import Vulture

ROOT = Path(__file__).parents[1]
PACKAGES = ("datamodules", "lightning_modules", "callbacks", "experiments", "renal_vlm")

CALLED_ELSEWHERE = {
    "synsets": "nltk asks a word net for it",
    "pos": "nltk gives it to `synsets`",
    "icon": "a browser asks for it",
    "by_text": "written through, as a view of a gradient",
    "text_to_image": "the second of a pair that its caller takes apart",
}
"""What has a use that no name tells, and which."""


def _modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def _words() -> set[str]:
    """Words by which code is found at run time: in configurations, templates, and short strings."""
    words: set[str] = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.suffix in (".yaml", ".html"):
                words |= set(re.findall(r"\w+", path.read_text(encoding="utf-8")))
        for path in _modules(package):
            strings = (node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
            words |= {word for text in strings if isinstance(text, str) and len(text) < 100 for word in text.split(".")}
            words |= set(re.findall(r":(\w+)\"", path.read_text(encoding="utf-8")))
    return words


def test_what_only_tests_call_is_not_there() -> None:
    found = Vulture()
    found.scavenge([str(ROOT / package) for package in PACKAGES])
    libraries = (
        pl.LightningModule,
        pl.LightningDataModule,
        pl.Callback,
        MLFlowLogger,
        LightningCLI,
        Metric,
        ModelHubMixin,
    )
    hooks = {name for library in libraries for name in dir(library)}
    known = hooks | _words() | set(CALLED_ELSEWHERE)
    unused = [
        f"{item.filename.relative_to(ROOT)}: {item.name}"
        for item in found.get_unused_code()
        if item.typ not in ("import", "attribute") and item.name not in known
    ]
    assert unused == []
    stale = set(CALLED_ELSEWHERE) - {item.name for item in found.get_unused_code()}
    assert stale == set(), "has a use that a name tells by now"


def test_no_two_classes_share_a_name() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for package in PACKAGES:
        for path in _modules(package):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places[node.name].append(path.relative_to(ROOT).as_posix())
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_two_files_of_a_package_share_a_name(package: str) -> None:
    names = Counter(path.name for path in _modules(package) if path.name not in ("__init__.py", "__main__.py"))
    assert [name for name, count in names.items() if count > 1] == []
