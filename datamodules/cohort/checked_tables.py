"""The tables of a cohort as a run reads them: checked by who wrote them, known by their checksums, read when needed.

A rank that trains reads the tables that its task asks for and no others. What was checked when it was written is not
checked again as long as every file has the bytes that it had: of a million volumes the checks take longer than the
reading.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from datamodules.cohort.table_checks import conform
from datamodules.cohort.tables import TABLES
from datamodules.errors import DataError
from datamodules.files import read_json_mapping, read_parquet, write_json

CHECKED = "checked.json"
_CHUNK = 1 << 22


def stamp_tables(root: Path) -> None:
    """Write down that the tables of a cohort, as their files are now, passed every check.

    Args:
        root: Folder of the cohort.
    """
    write_json(root / CHECKED, {"schema": _schema(), "crc32": _checksums(root)})


def tables_are_checked(root: Path) -> bool:
    """Whether every table has the bytes that passed the checks of this version; False where nobody wrote it down."""
    if not (root / CHECKED).is_file():
        return False
    try:
        stamp = read_json_mapping(root / CHECKED)
    except DataError:  # damaged, and worth no more than none
        return False
    return stamp.get("schema") == _schema() and stamp.get("crc32") == _checksums(root)


class StoredTables(Mapping[str, pd.DataFrame]):
    """Tables that are read when they are first asked for.

    Args:
        root: Folder of the cohort.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names = [name for name in TABLES if (root / f"{name}.parquet").is_file()]
        self._read: dict[str, pd.DataFrame] = {}

    def __getitem__(self, name: str) -> pd.DataFrame:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._read:
            self._read[name] = conform(read_parquet(self._root / f"{name}.parquet")[0], TABLES[name])
        return self._read[name]

    def part(self, name: str, columns: list[str]) -> pd.DataFrame:
        """Some columns of a table, which alone are read where it was not read before."""
        if name in self._read or name not in self._names:
            return self[name][columns]
        return read_parquet(self._root / f"{name}.parquet", columns)[0]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _schema() -> str:
    """What the tables were checked against, in sixteen digits."""
    return hashlib.sha256(repr(TABLES).encode()).hexdigest()[:16]


def _checksums(root: Path) -> dict[str, int]:
    found = {}
    for name in TABLES:
        path = root / f"{name}.parquet"
        if not path.is_file():
            continue
        checksum = 0
        with path.open("rb") as handle:
            while block := handle.read(_CHUNK):
                checksum = zlib.crc32(block, checksum)
        found[name] = checksum
    return found
