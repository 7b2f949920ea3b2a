"""A cohort on disk: light tables in Parquet, heavy volumes beside them, joined by key."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from datamodules.cohort.checked_tables import StoredTables, stamp_tables, tables_are_checked
from datamodules.cohort.splits import SPLIT_HASH, check_splits, split_hash
from datamodules.cohort.table_checks import check_links, check_table, conform
from datamodules.cohort.tables import TABLES
from datamodules.errors import DataError, Finding, raise_failures
from datamodules.files import read_json_mapping, read_parquet, write_json, write_parquet
from datamodules.names import check_name

COHORT_VERSION = 1
Evaluation = Literal["roles", "folds"]
_ANEW = "delete the file; the command that made it writes it anew"


@dataclass(frozen=True)
class CohortInfo:
    """What `cohort.json` says of a cohort.

    Args:
        name: Short name, used for MLflow experiments and run folders.
        evaluation: `roles` when centres have roles and a test split each; `folds` when the cohort is too small and
            every patient is tested once, in a fold of whole sites.
        intensity: Whether HU were acquired or rendered from masks; every report repeats it.
        source: Where the patients are from, in one sentence.
        phantom: Whether the patients are generated; every result then says so.
        seed: Seed of the split and, for a generated cohort, of the patients.
        details: Anything else worth keeping, as plain data.
        version: Version of this format.
    """

    name: str
    evaluation: Evaluation
    intensity: Literal["acquired", "rendered"]
    source: str
    phantom: bool = False
    seed: int = 42
    details: dict[str, Any] | None = None
    version: int = COHORT_VERSION


@dataclass(frozen=True)
class Cohort:
    """The checked tables of one cohort.

    `tables` maps the names of `datamodules.cohort.tables.TABLES` to frames with nullable types. Volumes are found
    through `datamodules.volumes.shards`.
    """

    root: Path
    info: CohortInfo
    tables: Mapping[str, pd.DataFrame]

    @classmethod
    def load(cls, root: Path | str) -> Cohort:
        """Read a cohort, and check it where its tables are not those that were checked when they were written.

        Raises:
            DataError: naming file, row, column, value found and value expected of the first failures.
        """
        root = Path(root)
        if (root / "cohort.json").is_file() and tables_are_checked(root):
            info, refused = _read_info(root)
            if info is not None and not refused:
                return cls(root, info, StoredTables(root))
        cohort, findings = cls.inspect(root)
        raise_failures(findings)
        if cohort is None:
            raise DataError(f"The cohort in {Path(root).name} could not be read.")
        return cohort

    @classmethod
    def inspect(cls, root: Path | str) -> tuple[Cohort | None, list[Finding]]:
        """Read a cohort and return everything that is wrong with its tables, without raising for it.

        Returns:
            The cohort, or None where its tables cannot be read, and the findings.
        """
        root = Path(root)
        if not (root / "cohort.json").is_file():
            found = "no such folder" if not root.is_dir() else "no cohort.json"
            return None, [
                Finding("FAIL", found, root.name, "a folder with cohort.json", "run `make cohort` or an importer first")
            ]
        info, refused = _read_info(root)
        if info is None or refused:
            return None, refused
        tables, findings, headers = _read_tables(root)
        if any(finding.level == "FAIL" for finding in findings):
            return None, findings
        findings += check_links(tables)
        findings += check_splits(tables, info.evaluation, headers.get("splits", {}).get(SPLIT_HASH))
        return cls(root, info, tables), findings

    @classmethod
    def recheck(cls, root: Path) -> None:
        """Check a cohort of which a table was written anew, and write down that it passed, so that runs need not.

        Args:
            root: Folder of the cohort.

        Raises:
            DataError: as `load`.
        """
        cohort, findings = cls.inspect(root)
        raise_failures(findings)
        if cohort is not None:
            stamp_tables(root)

    def write(self) -> None:
        """Write all tables, `cohort.json` last, so that a cohort that was interrupted is never read.

        Raises:
            DataError: if a table is refused by its schema, a patient is in two splits, or the name is no name.
        """
        check_name("The cohort's name", self.info.name)
        findings: list[Finding] = []
        for name, table in TABLES.items():
            if name in self.tables:
                findings += check_table(self.tables[name], table, f"{name}.parquet")
        raise_failures(findings)
        tables = {name: conform(self.tables[name], TABLES[name]) for name in TABLES if name in self.tables}
        raise_failures(check_links(tables))
        raise_failures(check_splits(tables, self.info.evaluation, split_hash(tables["splits"])))
        for name, frame in tables.items():
            header = {SPLIT_HASH: split_hash(frame)} if name == "splits" else None
            write_parquet(self.root / f"{name}.parquet", frame, header)
        stamp_tables(self.root)
        write_json(self.root / "cohort.json", vars(self.info))

    def __getitem__(self, name: str) -> pd.DataFrame:
        """The table of that name."""
        if name not in self.tables:
            raise DataError(f"Cohort {self.info.name} has no table {name!r}; it holds {', '.join(self.tables)}.")
        return self.tables[name]

    @cached_property
    def derived(self) -> dict[str, pd.DataFrame]:
        """What was worked out of the tables, by its name, for who asks next."""
        return {}

    def columns(self, name: str, columns: list[str]) -> pd.DataFrame:
        """Some columns of a table, without reading the others where the table was not read before."""
        stored = self.tables
        return stored.part(name, columns) if isinstance(stored, StoredTables) else self[name][columns]

    @property
    def split_hash(self) -> str:
        """Hash of the assignment of patients to splits and folds."""
        return split_hash(self.tables["splits"])

    @property
    def table_hash(self) -> str:
        """Hash of the contents of all tables but derived ones."""
        digest = hashlib.sha256()
        for name in sorted(name for name in self.tables if not TABLES[name].derived):
            digest.update(name.encode())
            digest.update(self.tables[name].to_csv(index=False).encode())
        return digest.hexdigest()[:12]

    def patients(self) -> pd.DataFrame:
        """One row per patient: the patient's columns with `role`, `split` and `fold` joined."""
        return (
            self.tables["patients"]
            .merge(self.tables["centers"], on="center", how="left", validate="many_to_one")
            .merge(self.tables["splits"], on="patient_id", how="left", validate="one_to_one")
        )


def _read_info(root: Path) -> tuple[CohortInfo | None, list[Finding]]:
    try:
        info = CohortInfo(**read_json_mapping(root / "cohort.json"))
        check_name("The cohort's name", info.name)
    except (TypeError, DataError) as error:
        return None, [Finding("FAIL", str(error), "cohort.json", "the fields of CohortInfo", "import it again")]
    if info.version != COHORT_VERSION:
        return info, [Finding("FAIL", f"version {info.version}", "cohort.json", str(COHORT_VERSION), "import it again")]
    return info, []


def _read_tables(root: Path) -> tuple[dict[str, pd.DataFrame], list[Finding], dict[str, dict[str, str]]]:
    tables: dict[str, pd.DataFrame] = {}
    headers: dict[str, dict[str, str]] = {}
    findings: list[Finding] = []
    for name, table in TABLES.items():
        path = root / f"{name}.parquet"
        if not path.is_file():
            if not table.optional:
                findings.append(Finding("FAIL", "missing", path.name, "a Parquet table", "import the cohort again"))
            continue
        try:
            frame, headers[name] = read_parquet(path)
        except DataError as error:
            findings.append(Finding("FAIL", str(error), path.name, fix=_ANEW if table.derived else ""))
            continue
        refused = check_table(frame, table, path.name)
        if table.derived:
            refused = [replace(finding, fix=_ANEW) for finding in refused]
        findings += refused
        if not refused:
            tables[name] = conform(frame, table)
    return tables, findings, headers
