"""Atomic writing: a reader sees the whole file or none."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.errors import DataError, WriteError

_LEFTOVER_S = 24 * 3600.0
"""Age in seconds of an unfinished file that no process can still be writing."""
_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
"""What file systems answer that cannot bring a folder to the disk by itself."""
_ROW_NUMBERS = re.compile(r"__index_level_\d+__")
_swept: set[Path] = set()


@contextmanager
def replacing(path: Path, mode: int = 0o644, *, settled: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path` and move it there when the block ends without an error.

    It is on the disk before it takes the place of what was there, so that neither a kill nor a loss of power leaves
    half a file. What killed processes left in the folder more than a day ago is removed.

    Args:
        path: The file to write; its folder is made.
        mode: Its permissions.
        settled: Whether to wait until it is on the disk; a copy of which the original is elsewhere, and which is
            verified when it is read, need not be.

    Raises:
        WriteError: if it cannot be written, for example on a full disk, naming the file.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(mode)
        if settled:
            put(temporary, path)
        else:
            temporary.replace(path)
    except OSError as error:
        raise WriteError(
            f"{path.name} could not be written in {path.parent.name}: {error.strerror or error}. "
            "Free some space or name another folder, then run the same command again."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def put(temporary: Path, path: Path) -> None:
    """Bring a written file to the disk, then let it take the place of another in the same file system."""
    settle(temporary)
    temporary.replace(path)
    settle(path.parent)


def settle(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk (fsync)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not (path.is_dir() and error.errno in _UNSUPPORTED):
            raise
    finally:
        os.close(handle)


def settle_tree(folder: Path) -> None:
    """Wait until every file below a folder is on the disk."""
    for path in (*folder.rglob("*"), folder):
        settle(path)


def remove_leftovers(folder: Path) -> None:
    """Remove unfinished files and folders (`.*.part`) older than a day; a process looks into a folder once."""
    if folder in _swept:
        return
    _swept.add(folder)
    with os.scandir(folder) as entries:
        for entry in entries:
            if not (entry.name.startswith(".") and entry.name.endswith(".part")):
                continue
            try:
                old = time.time() - entry.stat(follow_symlinks=False).st_mtime > _LEFTOVER_S
            except FileNotFoundError:  # finished, or removed by another process
                continue
            if old and entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            elif old:
                Path(entry.path).unlink(missing_ok=True)


def copy_file(source: str | Path, target: str | Path) -> None:
    """Copy a file, atomically."""
    with replacing(Path(target)) as temporary:
        shutil.copyfile(source, temporary)


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
        DataError: if it is not JSON, or nested so deep that nobody wrote it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path.name} is not valid JSON (line {error.lineno}: {error.msg}); write it again.") from error
    except (UnicodeDecodeError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else f"no UTF-8 at byte {error.start}"
        raise DataError(f"{path.name} is not valid JSON ({reason}); write it again.") from error
    except ValueError as error:
        raise DataError(f"{path.name} is not valid JSON (a number of too many digits); write it again.") from error


def read_json_mapping(path: Path, *names: str) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        path: The file.
        names: What it must hold.

    Raises:
        DataError: if it is not JSON, or holds something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path.name} holds a {type(content).__name__}; expected an object with names. Write it again.")
    absent = [name for name in names if name not in content]
    if absent:
        raise DataError(f"{path.name} in {path.parent.name} holds no {', '.join(absent)}; write it again.")
    return content


def write_parquet(path: Path, frame: pd.DataFrame, metadata: dict[str, str] | None = None) -> None:
    """Write a table as Parquet, atomically, with `metadata` in its header."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    if metadata:
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def read_parquet(path: Path, columns: list[str] | None = None) -> tuple[pd.DataFrame, dict[str, str]]:
    """Read a table and the metadata of its header, with nullable types.

    Equal texts of a column are one object: the names in an index of a million volumes would else take a gigabyte.

    Args:
        path: Parquet file.
        columns: Columns to read; all when left out.

    Raises:
        DataError: if the file is not a whole Parquet file, or lacks a column.
    """
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            schema = file.schema_arrow
            # Numbers of rows that pandas kept beside a filtered table say nothing; an index with a name is a column.
            names = [name for name in columns or schema.names if not _ROW_NUMBERS.fullmatch(name)]
            kinds = {name: schema.field(name).type for name in names}
            texts = [name for name, kind in kinds.items() if pa.types.is_string(kind) or pa.types.is_large_string(kind)]
            plain = [name for name in names if name not in texts]
            others = file.read(plain).to_pandas(types_mapper=_nullable, ignore_metadata=True)
            # One after the other: of a large table a single column is held twice at a time.
            content = {name: _texts(file.read([name]).column(0)) if name in texts else others[name] for name in names}
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise DataError(f"{path.name} is not a readable Parquet file ({error}); write it again.") from error
    header = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    return pd.DataFrame(content, index=others.index), header


def _texts(column: pa.ChunkedArray) -> pd.arrays.StringArray:
    """A column of text whose equal values are one object."""
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    words = np.array([*encoded.dictionary.to_pylist(), pd.NA], dtype=object)
    return pd.arrays.StringArray(words[encoded.indices.fill_null(len(words) - 1).to_numpy(zero_copy_only=False)])


def _nullable(kind: pa.DataType) -> Any:
    if pa.types.is_integer(kind):
        return pd.Int64Dtype()
    if pa.types.is_floating(kind):
        return pd.Float64Dtype()
    if pa.types.is_boolean(kind):
        return pd.BooleanDtype()
    return None
