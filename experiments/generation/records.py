"""The table of generated reports: one row per kidney and system, whoever wrote it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from datamodules.errors import DataError
from datamodules.files import read_parquet, write_parquet
from datamodules.reports.sides import KIDNEY

GENERATED = "generated.parquet"
COLUMNS = {
    "patient_id": "string",
    "study_id": "string",
    "side": "string",
    "center": "string",
    "role": "string",
    "system": "string",
    "text": "string",
    "tokens": "Int64",
    "mean_logprob": "Float64",
    "truncated": "boolean",
}
"""Columns and types. `tokens` counts what was generated, its end included; `mean_logprob` is nats a token; both, and
`truncated` (whether the end was never written), are missing for a system that does not tell."""


def generated_table(rows: pd.DataFrame, source: str = "generated reports") -> pd.DataFrame:
    """Check a table of generated reports.

    Args:
        rows: At least the key of a kidney, center, role, system and text; other columns are filled as missing.
        source: What the table is called in errors.

    Returns:
        The columns of `COLUMNS`, sorted by system and kidney.

    Raises:
        DataError: if a column is absent, or a system wrote two reports of one kidney.
    """
    missing = [name for name in (*KIDNEY, "center", "role", "system", "text") if name not in rows]
    if missing:
        raise DataError(f"Table of {source} has no column {', '.join(missing)}; expected {', '.join(COLUMNS)}.")
    frame = rows.reindex(columns=list(COLUMNS)).astype(COLUMNS)
    frame["text"] = frame["text"].fillna("")
    twice = frame.duplicated([*KIDNEY, "system"])
    if twice.any():
        row = frame[twice].iloc[0]
        raise DataError(
            f"Table of {source} has {int(twice.sum())} kidneys with more than one report by the same system (first: "
            f"patient {row['patient_id']}, {row['side']}, {row['system']}); expected one."
        )
    return frame.sort_values(["system", *KIDNEY], ignore_index=True)


def write_generated(path: Path, rows: pd.DataFrame) -> None:
    """Write a table of generated reports atomically.

    Raises:
        DataError: as `generated_table`.
    """
    write_parquet(path, generated_table(rows, path.name))


def read_generated(path: Path) -> pd.DataFrame:
    """Read a table of generated reports.

    Raises:
        DataError: if it is absent, damaged or of another form.
    """
    if not path.is_file():
        raise DataError(f"{path.name} was not found in {path.parent.name}; run `make generate` first.")
    return generated_table(read_parquet(path)[0], path.name)
