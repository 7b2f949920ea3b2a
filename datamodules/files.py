"""Atomic writing: a reader sees the whole file or none."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.errors import DataError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` and move it there when the block ends without an error.

    Args:
        path: The file to write; its folder is made.

    Raises:
        DataError: if the disk is full, naming the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise DataError(
            f"{path.name} could not be written in {path.parent.name}: {error.strerror or error}. "
            "Free some space or name another folder, then run the same command again."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write plain data as indented JSON, atomically; NumPy scalars become numbers and pandas' NA becomes null."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=_plain) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if value is pd.NA:
        return None
    raise TypeError(f"{type(value).__name__} is not plain data")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: if it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path.name} is not valid JSON (line {error.lineno}: {error.msg}); write it again.") from error


def write_parquet(path: Path, frame: pd.DataFrame, metadata: dict[str, str] | None = None) -> None:
    """Write a table as Parquet, atomically, with `metadata` in its header."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    if metadata:
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def read_parquet(path: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """Read a table and the metadata of its header, with nullable types.

    Raises:
        DataError: if the file is not a whole Parquet file.
    """
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path.name} is not a readable Parquet file ({error}); write it again.") from error
    header = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    return table.to_pandas(types_mapper=_nullable), header


def _nullable(kind: pa.DataType) -> Any:
    if pa.types.is_integer(kind):
        return pd.Int64Dtype()
    if pa.types.is_floating(kind):
        return pd.Float64Dtype()
    if pa.types.is_boolean(kind):
        return pd.BooleanDtype()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pd.StringDtype()
    return None
