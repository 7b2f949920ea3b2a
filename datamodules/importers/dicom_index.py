"""Which file belongs to which patient: a folder of DICOM files is read through once, headers only.

The index lies in the private folder, never in the cohort, for it holds paths. It has one file per patient, so that a
worker reads what it needs and a hospital's archive does not have to fit into memory.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from datamodules.errors import DataError
from datamodules.files import read_json, write_json
from datamodules.importers.dicom_headers import NotDicom, SliceHeader, read_headers
from datamodules.importers.pseudonyms import Naming

_OPEN_FILES = 64
_DONE = "complete.json"


@dataclass(frozen=True)
class DicomIndex:
    """The headers of one imported folder.

    Args:
        folder: Where the index lies.
    """

    folder: Path

    def summary(self) -> dict[str, Any]:
        """`patients` (identifier to file), and `empty_folders`, `damaged_files`, `other_files` that have no patient."""
        content: dict[str, Any] = read_json(self.folder / _DONE)
        return content

    def headers(self, patient_id: str) -> list[SliceHeader]:
        """All slices and other objects of a patient, in the order of their paths."""
        lines = (self.folder / self.summary()["patients"][patient_id]).read_text(encoding="utf-8").splitlines()
        return [SliceHeader.from_dict(json.loads(line)) for line in lines]


def files_below(root: Path) -> Iterator[Path]:
    """All files below a folder, in a stable order."""
    for folder, below, names in os.walk(root):
        below.sort()
        for name in sorted(names):
            yield Path(folder) / name


def build_index(root: Path, store: Path, naming: Naming) -> DicomIndex:
    """Read the header of every file below a folder, or take the index that an earlier run finished.

    Args:
        root: Folder of DICOM files, nested in any way; files are known by their content, not by their names.
        store: Folder of the index, named by the fingerprint of `root`.
        naming: Gives patients their identifiers.

    Raises:
        DataError: if `root` is no folder.
    """
    if not root.is_dir():
        raise DataError("The folder of DICOM files was not found; check the name of the source.")
    if (store / _DONE).is_file():
        return DicomIndex(store)
    shutil.rmtree(store, ignore_errors=True)
    store.mkdir(mode=0o700, parents=True)
    empty = sum(1 for _, below, names in os.walk(root) if not below and not names)
    damaged = other = 0
    with _Lines(store) as lines:
        for path in files_below(root):
            try:
                raw, headers = read_headers(path, root)
            except NotDicom:
                other += 1
                continue
            except DataError:
                damaged += 1
                continue
            patient = naming.patient(raw)
            for header in headers:
                lines.add(patient, json.dumps(asdict(replace(header, patient=patient))))
        patients = lines.names
    summary = {"patients": patients, "empty_folders": empty, "damaged_files": damaged, "other_files": other}
    write_json(store / _DONE, summary)
    return DicomIndex(store)


class _Lines:
    """Appends lines to one file per patient, a bounded number of them open."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.names: dict[str, str] = {}
        self._open: dict[str, Any] = {}

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def add(self, patient: str, line: str) -> None:
        name = self.names.setdefault(patient, f"{len(self.names):06d}.jsonl")
        if name not in self._open:
            if len(self._open) >= _OPEN_FILES:
                self._close()
            self._open[name] = (self.store / name).open("a", encoding="utf-8")
        self._open[name].write(line + "\n")

    def _close(self) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()
