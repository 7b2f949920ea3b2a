"""The rooms of the suite, their order, and who imports whom: for the test of it, and for the page that shows it.

Run from the root of the repository: python -m tests.rooms
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE, PICTURE = ROOT / "docs/ARCHITECTURE.md", ROOT / "docs/rooms.svg"
BEGIN, END = "<!-- written by `python -m tests.rooms` -->", "<!-- end -->"

FLOORS: dict[str, tuple[tuple[str, ...], ...]] = {
    "datamodules": (
        ("files",),
        ("cohort", "engine", "volumes"),
        ("anatomy", "augmentation", "loading"),
        ("reports",),
        ("quality",),
        ("importers",),
        ("phantoms", "DataModules"),
    ),
    "lightning_modules": (
        ("metrics",),
        ("core",),
        ("networks",),
        ("export", "losses"),
        ("downstream", "pretrain"),
    ),
    "experiments": (
        ("registry", "statistics"),
        ("runs",),
        ("cohorts", "scores"),
        ("encoders",),
        ("attribution", "doubt"),
        ("aligned", "pretraining"),
        ("finetuning",),
        ("generation", "gpu_check", "maps", "studies"),
        ("assessment",),
        ("doctor", "front_door", "licences"),
        ("cli",),
    ),
}
"""Rooms of every package from the ground up: a room imports rooms below it only."""

_TOGETHER = {
    "datamodules": {
        "files": ("batch", "csv_files", "errors", "files", "names", "plain_yaml", "processes"),
        "DataModules": (
            "alignment",
            "attributes",
            "base",
            "bound_data",
            "kidney_features",
            "tasks",
            "texts",
            "token_alignment",
            "writing",
        ),
    },
    "experiments": {"cli": ("cli", "__main__")},
}
"""Files at the top of a package that are one room; of the others each is a room of its own."""


def modules() -> dict[str, Path]:
    """Every module of the three packages, by its full name."""
    paths = (path for package in FLOORS for path in sorted((ROOT / package).rglob("*.py")))
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths}
    return {name: path for path, name in names.items()}


def imported(path: Path) -> Iterator[str]:
    """Full names that a file imports, modules and what is taken out of them, wherever the import stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(name: str) -> tuple[str, str] | None:
    """Package and room of a full name; None where it is the package itself, which hands on what its rooms hold."""
    package, _, rest = name.partition(".")
    first = rest.partition(".")[0]
    if package not in FLOORS or not first or not _is_module(package, first):
        return None
    for together, files in _TOGETHER.get(package, {}).items():
        if first in files:
            return package, together
    return package, first


def _is_module(package: str, name: str) -> bool:
    return (ROOT / package / name).is_dir() or (ROOT / package / f"{name}.py").is_file()


def arrows() -> dict[tuple[str, str, str], list[str]]:
    """Imports from room to room within a package: package, importing room, imported room; with the files."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for name, path in modules().items():
        source = room(name)
        if source is None:
            continue
        for target in sorted({place for place in map(room, imported(path)) if place is not None}):
            if target[0] == source[0] and target != source:
                found.setdefault((*source, target[1]), []).append(path.relative_to(ROOT).as_posix())
    return found


def floor_of(package: str) -> dict[str, int]:
    """The floor of every room of a package."""
    return {name: number for number, floor in enumerate(FLOORS[package]) for name in floor}


def listing() -> str:
    """The arrows as the page holds them, one room a line, from the top down."""
    found = arrows()
    lines = []
    for package, floors in FLOORS.items():
        lines += [f"`{package}/`", "", "| room | imports |", "|---|---|"]
        for name in (name for floor in reversed(floors) for name in floor):
            below = sorted(target for owner, source, target in found if (owner, source) == (package, name))
            lines.append(f"| {name} | {', '.join(below) or 'nothing here'} |")
        lines.append("")
    return "\n".join(lines)


def picture() -> str:
    """The same as a drawing in SVG. An arrow is left out where a longer way leads to the same room."""
    found = arrows()
    width, height, step_x, step_y, top = 104, 28, 118, 74, 56
    parts: list[str] = []
    left = 20
    for package, floors in FLOORS.items():
        span = max(len(floor) for floor in floors) * step_x
        place = {
            name: (left + (span - len(floor) * step_x) // 2 + column * step_x, top + row * step_y)
            for row, floor in enumerate(reversed(floors))
            for column, name in enumerate(floor)
        }
        below = {
            name: {target for owner, source, target in found if (owner, source) == (package, name)} for name in place
        }
        for name, targets in below.items():
            for target in sorted(targets):
                if any(target in _reached(below, other) for other in targets - {target}):
                    continue
                x, y = place[name][0] + width // 2, place[name][1] + height
                parts.append(
                    f'<line x1="{x}" y1="{y}" x2="{place[target][0] + width // 2}" y2="{place[target][1] - 3}" '
                    'stroke="#8a8f98" marker-end="url(#tip)"/>'
                )
        for name, (x, y) in place.items():
            parts.append(
                f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" fill="#eef2f7" stroke="#44546a"/>'
            )
            parts.append(f'<text x="{x + width // 2}" y="{y + 18}" text-anchor="middle">{name}</text>')
        parts.append(f'<text x="{left + span // 2 - 7}" y="30" text-anchor="middle" class="head">{package}/</text>')
        left += span + 30
    size = f'width="{left}" height="{top + step_y * max(map(len, FLOORS.values()))}"'
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">\n'
        "<style>.head { font-size: 16px; font-weight: bold }</style>\n"
        '<rect width="100%" height="100%" fill="white"/>\n'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#8a8f98"/></marker></defs>\n'
    )
    return head + "\n".join(parts) + "\n</svg>\n"


def _reached(below: dict[str, set[str]], name: str) -> set[str]:
    return below[name] | {far for near in below[name] for far in _reached(below, near)}


def written(page: str) -> str:
    """The page with the arrows of the code."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{listing()}\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Write the arrows into the page, and draw them."""
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    PICTURE.write_text(picture(), encoding="utf-8")


if __name__ == "__main__":
    main()
