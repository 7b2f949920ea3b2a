"""`make licences`: every package with its licence and its use, and the rule that what is GPL is in no default
installation."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from packaging.utils import canonicalize_name

from datamodules.errors import DataError
from datamodules.files import replacing
from experiments.licences.packages import imported_packages, installed_for
from experiments.runs.console import say

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "LICENCES.md"
_KNOWN = Path(__file__).with_name("known.yaml")
_SILENT = ("UNKNOWN", "License", "")


@dataclass(frozen=True)
class Package:
    """One installed package.

    Args:
        name: Normalised name.
        version: Installed version.
        licence: As its metadata states it.
        family: Copyleft family of the licence; empty where it is permissive.
        refused: Whether that family is refused in a default installation.
        imported_by: Files of the suite that import it.
        installed_for: `default`, or the extras that bring it.
    """

    name: str
    version: str
    licence: str
    family: str
    refused: bool
    imported_by: tuple[str, ...]
    installed_for: tuple[str, ...]

    @property
    def use(self) -> str:
        """How the suite uses it, in words."""
        if "default" not in self.installed_for:
            return "extra " + ", ".join(self.installed_for) + (", imported" if self.imported_by else "")
        return "imported" if self.imported_by else "needed by others"


def read_licences() -> dict[str, tuple[str, str]]:
    """Version and licence of every installed package by normalised name, as pip-licenses reads them.

    Raises:
        DataError: if pip-licenses is not installed.
    """
    command = [sys.executable, "-m", "piplicenses", "--format=json", "--from=mixed", "--with-system"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DataError("pip-licenses was not found; it is part of the extra `dev`, which `make setup` installs.")
    rows: list[dict[str, str]] = json.loads(done.stdout)
    return {canonicalize_name(row["Name"]): (row["Version"], row["License"]) for row in rows}


def known() -> dict[str, Any]:
    """What `known.yaml` says."""
    content: dict[str, Any] = yaml.safe_load(_KNOWN.read_text(encoding="utf-8"))
    return content


def family_of(licence: str, families: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The copyleft family that a licence belongs to; None where it is permissive, or leaves the choice of one."""
    if any(not any(re.search(one["pattern"], part) for one in families) for part in re.split(r"\bOR\b", licence)):
        return None
    return next((one for one in families if re.search(one["pattern"], licence)), None)


def collect(root: Path = ROOT) -> list[Package]:
    """Every installed package that the suite imports, needs or keeps in an extra, by name."""
    facts, used, asked, notes = read_licences(), imported_packages(root), installed_for(root), known()
    packages = []
    for key in sorted(set(used) | set().union(*asked.values())):
        version, licence = facts[key]
        if licence in _SILENT:
            licence = notes["stated"].get(key, "UNKNOWN")
        found = family_of(licence, notes["families"])
        packages.append(
            Package(
                name=key,
                version=version,
                licence=licence,
                family="" if found is None else found["name"],
                refused=bool(found and found.get("refused")),
                imported_by=tuple(used.get(key, ())),
                installed_for=tuple(purpose for purpose, names in asked.items() if key in names),
            )
        )
    return packages


def violations(packages: Sequence[Package]) -> list[str]:
    """What the rule refuses, one sentence each."""
    found = []
    for one in packages:
        default = "default" in one.installed_for
        if one.refused and (default or one.imported_by):
            where = f"imported by {one.imported_by[0]}" if one.imported_by else "part of the default installation"
            found.append(f"{one.name} ({one.licence}) is {where}; expected a permissive package in its place.")
        if one.licence == "UNKNOWN" and default:
            found.append(f"{one.name} states no licence; read its licence file and name it in {_KNOWN.name}.")
    return found


def page(packages: Sequence[Package]) -> str:
    """The page as Markdown."""
    notes = known()
    lines = [
        "# Licences",
        "",
        "The suite is Apache-2.0. `make licences` writes this page with [pip-licenses]"
        "(https://github.com/raimon49/pip-licenses) and fails",
        "where the default installation holds a package under GPL or AGPL, or the suite's code imports one. Tests may",
        "compare the suite with such a package, which is part of the extra `dev`.",
        "Builds of torch for a GPU bring NVIDIA's libraries under NVIDIA's own terms; this page is of a build for CPU.",
        "",
        "## Copyleft",
        "",
        "| family | what it asks |",
        "|---|---|",
        *(f"| {one['name']} | {one['means']} |" for one in notes["families"]),
        "",
        "| package | licence | use | why |",
        "|---|---|---|---|",
    ]
    for one in packages:
        if one.family:
            lines.append(f"| {one.name} | {one.licence} | {one.use} | {notes['packages'].get(one.name, '')} |")
    lines += ["", "## All packages", "", "| package | version | licence | use |", "|---|---|---|---|"]
    lines += [f"| {one.name} | {one.version} | {one.licence} | {one.use} |" for one in packages]
    return "\n".join(lines) + "\n"


def licences(out: Path = PAGE) -> int:
    """Write the table of licences of everything that the suite is installed with, and hold its rule.

    Args:
        out: Markdown page to write.

    Returns:
        1 where a GPL or AGPL package is imported or installed by default, or a licence is not known; else 0.
    """
    packages = collect()
    with replacing(out) as temporary:
        temporary.write_text(page(packages), encoding="utf-8")
    refused = violations(packages)
    copyleft = [one for one in packages if one.family]
    direct = sum(bool(one.imported_by) for one in packages)
    say(f"{len(packages)} packages, {direct} of them imported, {len(copyleft)} under a copyleft licence: {out.name}")
    for sentence in refused:
        say(f"FAIL {sentence}")
    return 1 if refused else 0
