"""Makes the site of the pages: `mkdocs build` calls these functions.

The pages stay as GitHub shows them. Pages that lie elsewhere in the repository are taken in, links are led to them, and
a page of the Python API is made out of the docstrings.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
    "datamodules/importers/README.md": "IMPORTERS.md",
    "datamodules/importers/kits23/KITS23.md": "KITS23.md",
    "datamodules/reports/REAL_REPORTS.md": "REAL_REPORTS.md",
}
"""Pages outside of docs/, and what they are called on the site."""
_LINK = re.compile(r"(!?\[[^]]*\]\()([^)\s#]+)(#[^)\s]*)?\)")
_PLACES = re.compile(r"(?ms)^PLACES = \{\n(.*?)^\}|^LOADERS = \{\n(.*?)^\}")
_ENTRY = re.compile(r'"(\w+)": "([\w.]+)"')
_GROUPS = (
    ("Load what was trained", "renal_vlm/__init__.py"),
    ("Data", "datamodules/__init__.py"),
    ("Models", "lightning_modules/__init__.py"),
)


def _api() -> str:
    """The page of the Python API: every name of `renal_vlm`, from its docstring."""
    parts = ["# Python API", "Every name here can be imported from `renal_vlm`."]
    for title, place in _GROUPS:
        found = "".join("".join(groups) for groups in _PLACES.findall((ROOT / place).read_text(encoding="utf-8")))
        parts += [f"## {title}", *(f"::: {module}.{name}" for name, module in _ENTRY.findall(found))]
    return "\n\n".join(parts) + "\n"


def on_files(files: Any, config: Any) -> Any:
    """Take in the pages that lie elsewhere, and that of the API."""
    for place, name in ELSEWHERE.items():
        files.append(File.generated(config, name, content=(ROOT / place).read_text(encoding="utf-8")))
    files.append(File.generated(config, "API.md", content=_api()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Lead links from the repository's places to those of the site; a file that is no page becomes its name."""
    source = next(
        (place for place, name in ELSEWHERE.items() if name == page.file.src_uri), f"docs/{page.file.src_uri}"
    )

    def led(found: re.Match[str]) -> str:
        head, target, anchor = found[1], found[2], found[3] or ""
        if "://" in target:
            return found[0]
        place = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if place in ELSEWHERE:
            return f"{head}{ELSEWHERE[place]}{anchor})"
        if place.startswith("docs/"):
            return f"{head}{place.removeprefix('docs/')}{anchor})"
        words = head.lstrip("!")[1:-2]
        return words if (ROOT / place).exists() else found[0]

    return _LINK.sub(led, markdown)
