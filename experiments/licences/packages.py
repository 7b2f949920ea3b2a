"""Which packages the suite imports, installs by default, or keeps in an extra."""

from __future__ import annotations

import ast
import importlib.metadata
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOMS = ("lightning_modules", "datamodules", "callbacks", "experiments")


def imported_packages(root: Path) -> dict[str, list[str]]:
    """Packages that the suite's code imports, at any level of a module, and the files that do.

    Args:
        root: Folder of the repository.

    Returns:
        Normalised names of installed packages (PEP 503), with paths relative to `root`.
    """
    owners = importlib.metadata.packages_distributions()
    found: dict[str, list[str]] = {}
    for path in sorted(path for room in ROOMS for path in (root / room).rglob("*.py")):
        where = path.relative_to(root)
        for module in _modules(path) - set(sys.stdlib_module_names) - set(ROOMS):
            for owner in owners.get(module, ()):
                users = found.setdefault(canonicalize_name(owner), [])
                users += [] if where.as_posix() in users else [where.as_posix()]
    return found


def _modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def installed_for(root: Path) -> dict[str, set[str]]:
    """Installed packages by what they are installed for: `default` and every extra of the suite.

    Args:
        root: Folder of the repository, whose pyproject.toml is read.

    Returns:
        `default`, then each extra, to normalised names with everything that they need in turn.
    """
    content = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    project, groups = content["project"], content["dependency-groups"]
    found = {"default": closure(project["dependencies"]) | _named(groups["no-deps"])}
    for extra, wanted in project["optional-dependencies"].items():
        found[extra] = closure(wanted) | _named(groups.get(f"{extra}-no-deps", ()))
    return found


def _named(requirements: Iterable[str]) -> set[str]:
    """Packages that are installed without what they ask for."""
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def closure(requirements: Iterable[str]) -> set[str]:
    """Installed packages that requirements need, directly or through another, on this machine."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        asked = waiting.pop()
        name = canonicalize_name(asked.name)
        for extra in ("", *sorted(asked.extras)):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                needed = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:
                continue
            found.add(name)
            needs = [Requirement(text) for text in needed]
            waiting += [need for need in needs if need.marker is None or need.marker.evaluate({"extra": extra})]
    return found
