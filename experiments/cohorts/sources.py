"""Where cohorts come from: one entry per kind of source."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from datamodules.cohort.columns import ROLES
from datamodules.errors import DataError
from datamodules.importers.records import Source
from datamodules.names import check_name
from datamodules.plain_yaml import read_yaml
from experiments.registry import choose
from experiments.runs.gate import denied_name


@dataclass(frozen=True)
class SourceEntry:
    """A kind of source.

    Args:
        title: What it reads.
        module: Module of its class; imported when it is used.
        cls: Name of the class, a `datamodules.importers.records.Source`.
        argument: Its argument that takes SOURCE; None when it reads nothing.
        knows_out: Whether it wants to know the cohort's folder, to keep the key to its pseudonyms outside of it.
        matches: Whether a path looks like this kind.
    """

    title: str
    module: str
    cls: str
    argument: str | None
    matches: Callable[[Path], bool]
    knows_out: bool = False


_TABLES = (".csv", ".tsv", ".json", ".txt", ".md", ".xlsx", ".yaml", ".yml")
SEVERAL = "several"
"""Kind of a YAML file that names several sources."""

SOURCES: dict[str, SourceEntry] = {
    SEVERAL: SourceEntry(
        "a YAML file that names several sources, one cohort of them all",
        "datamodules.importers.several",
        "SeveralSources",
        None,
        lambda path: path.suffix in (".yaml", ".yml"),
    ),
    "demo": SourceEntry(
        "phantoms, drawn", "datamodules.phantoms.phantom_source", "DemoSource", None, lambda path: False
    ),
    "kits23": SourceEntry(
        "the official KiTS23 download",
        "datamodules.importers.kits23.kits23_source",
        "Kits23Source",
        "folder",
        lambda path: (path / "kits23.json").is_file(),
    ),
    "manifest": SourceEntry(
        "NIfTI files named by a CSV manifest",
        "datamodules.importers.nifti.manifest",
        "ManifestSource",
        "manifest",
        lambda path: path.suffix == ".csv",
    ),
    "dicom": SourceEntry(
        "DICOM files in any order",
        "datamodules.importers.dicom.dicom_source",
        "DicomSource",
        "folder",
        lambda path: path.is_dir(),
        knows_out=True,
    ),
    "tcia": SourceEntry(
        "a TCIA download with its clinical tables",
        "datamodules.importers.tcia.tcia_source",
        "TciaSource",
        "folder",
        lambda path: False,
        knows_out=True,
    ),
}


def recognise(path: Path) -> str:
    """The kind of source that a path holds.

    Raises:
        DataError: if the path does not exist or looks like none.
    """
    if not path.exists():
        raise DataError(f"SOURCE {path.name} does not exist; name a folder or a manifest.")
    for name, entry in SOURCES.items():
        if entry.matches(path):
            if name == "dicom" and _nifti_alone(path):
                raise DataError(
                    f"SOURCE {path.name} holds NIfTI files. A table lists them, a row a series: patient_id, study_id, "
                    "series_id, center, phase, image, mask; name it as SOURCE=manifest.csv. docs/YOUR_DATA.md has one."
                )
            return name
    raise DataError(f"SOURCE {path.name} was not recognised; name its KIND, one of {', '.join(SOURCES)}.")


def _nifti_alone(folder: Path) -> bool:
    """Whether the scans of a folder are NIfTI files; tables and texts may lie beside them."""
    files = (path for path in folder.rglob("*") if path.is_file())
    kinds = (path.name.endswith((".nii", ".nii.gz")) for path in files if path.suffix not in _TABLES)
    return next(kinds, False) and all(kinds)


def _at_home(value: Any) -> Any:
    """Options with the home folder in place of a leading `~`, which no shell has replaced inside of them."""
    if isinstance(value, dict):
        return {name: _at_home(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_at_home(inner) for inner in value]
    return str(Path(value).expanduser()) if isinstance(value, str) and value.startswith("~") else value


def make_source(kind: str, path: Path | None, out: Path, options: dict[str, Any]) -> Source:
    """A source from its kind, its path, the cohort's folder and its options; a cohort is named after its folder.

    Raises:
        DataError: if the kind or an option is unknown, or a value has another type.
    """
    entry = SOURCES[choose("KIND", kind, dict(SOURCES))]
    if kind == SEVERAL:
        return _several(path, out, options)
    cls = getattr(importlib.import_module(entry.module), entry.cls)
    values: dict[str, Any] = _at_home(options)
    if entry.argument is not None and path is not None:
        values[entry.argument] = str(path)
    if entry.knows_out:
        values["out"] = str(out)
    if "plan" in inspect.signature(cls).parameters and isinstance(values.get("plan", {}), dict):
        values["plan"] = {"name": out.name, **values.get("plan", {})}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls)
    try:
        parsed = parser.parse_object(values)
    except ArgumentError as error:
        reason = denied_name(error) or " ".join(str(error).split())
        raise DataError(f"Options of the {kind} source were refused: {reason}") from error
    source: Source = cls(**parser.instantiate_classes(parsed).as_dict())
    return source


def _several(path: Path | None, out: Path, options: dict[str, Any]) -> Source:
    """The sources that a YAML file names, paths relative to it; every hospital with a key of its own."""
    from datamodules.importers.plan import CohortPlan
    from datamodules.importers.pseudonyms import private_folder
    from datamodules.importers.several import CohortSource, SeveralSources

    if path is None or options:
        raise DataError("A cohort of several sources takes its options from its YAML file; name it with SOURCE=.")
    content = read_yaml(path)
    known = {"plan", "sources", "withdrawn"}
    if not isinstance(content, dict) or not isinstance(content.get("sources"), dict) or set(content) - known:
        raise DataError(f"{path.name}: expected the keys plan, sources and, where patients left, withdrawn.")
    parts = {}
    for name, given in content["sources"].items():
        wrong = sorted(set(given) - {"kind", "path", "center", "role", "options"}) if isinstance(given, dict) else ["?"]
        if wrong or "path" not in given:
            raise DataError(
                f"{path.name}, source {name}: expected path and, where needed, kind, center, role and options"
                + (f"; {wrong[0]} is not known." if wrong else ".")
            )
        check_name(f"{path.name}: the source", str(name))
        place = path.parent / Path(str(given["path"])).expanduser()
        kind = given.get("kind") or recognise(place)
        own = {key: _beside(path.parent, key, value) for key, value in (given.get("options") or {}).items()}
        if kind != "kits23":
            own.setdefault("plan", {"name": str(name)})
        if kind in ("dicom", "manifest"):
            own.setdefault("private", str(private_folder(out) / str(name)))
        if kind == "manifest":
            own["out"] = str(out)
        if kind in ("dicom", "tcia"):
            own.setdefault("withdrawn", list(map(str, content.get("withdrawn") or ())))
        if kind == "dicom" and given.get("center") is None:
            own.setdefault("center", str(name))
        parts[str(name)] = CohortSource(make_source(kind, place, out, own), given.get("center"), given.get("role"))
    plan = CohortPlan(**(content.get("plan") or {}))
    wrong_roles = sorted({part.role for part in parts.values() if part.role is not None} - set(ROLES))
    if wrong_roles:
        raise DataError(f"{path.name}: role {wrong_roles[0]!r} was found; expected one of {', '.join(ROLES)}.")
    return SeveralSources(parts, plan, tuple(map(str, content.get("withdrawn") or ())))


def _beside(folder: Path, name: str, value: Any) -> Any:
    """An option of a source; one that is a file beside the YAML is named from there."""
    if isinstance(value, list):
        return [_beside(folder, name, inner) for inner in value]
    if isinstance(value, str) and not Path(value).expanduser().is_absolute() and (folder / value).exists():
        return str(folder / value)
    return value
