"""The files of a volume set with their sizes and checksums, so that a damaged one is found before it is used."""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datamodules.errors import DataError, Finding
from datamodules.files import read_parquet, write_parquet

FILES = "files.parquet"
MEND = (
    "Delete the file and run `make cohort` or `make import` again (`make volumes` for the volumes of another encoder): "
    "only its patient is read anew"
)
RENEW = "run `make cohort` or `make import` again as before: finished patients are kept and the checksums are added"


def file_entry(folder: Path, name: str, patient_id: str) -> dict[str, Any]:
    """Name within the set, patient, bytes and CRC-32 of a file as it lies on the disk."""
    content = (folder / name).read_bytes()
    return {"file": name, "patient_id": patient_id, "bytes": len(content), "crc32": zlib.crc32(content)}


def write_files(folder: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Write the list of files of a finished set.

    Args:
        folder: Folder of the set.
        entries: What `datamodules.volumes.shards.write_shard` returned. Entries of a set that was made before there
            were checksums hold no `files`: theirs are taken now, once the label maps have been read in full.

    Raises:
        DataError: if such a label map is damaged.
    """
    rows: list[dict[str, Any]] = []
    for entry in entries:
        if "files" in entry:
            rows += entry["files"]
            continue
        stem = Path(entry["shard"]).stem
        if entry["masks"]:
            name = f"masks/{stem}.npz"
            read_masks((folder / name).read_bytes(), f"{folder.name}/{name}")  # a zip has checksums of its own
            rows.append(file_entry(folder, name, entry["patient_id"]))
        if entry["litdata"] is not None:
            rows.append(file_entry(folder, f"shards/{entry['shard']}", entry["patient_id"]))
    write_parquet(folder / FILES, pd.DataFrame(rows).convert_dtypes())


def read_files(folder: Path) -> pd.DataFrame | None:
    """What is known of each file by its name: patient_id, bytes, crc32; None of a set that was made before there were
    checksums."""
    path = folder / FILES
    return read_parquet(path)[0].set_index("file") if path.is_file() else None


def missing_files(folder: Path) -> list[str]:
    """Names of the files that a finished set should hold and does not."""
    files = read_files(folder)
    if files is None:
        names = [f"shards/{name}" for name in set(read_parquet(folder / "index.parquet")[0]["shard"])]
    else:
        names = files.index.tolist()
    return sorted(name for name in names if not (folder / name).is_file())


def is_whole(folder: Path) -> bool:
    """Whether a set is finished and none of its files is missing."""
    return (folder / "contract.json").is_file() and not missing_files(folder)


def check_bytes(content: bytes, row: Mapping[Any, Any], where: str) -> None:
    """Refuse the content of a file that is not what was written.

    Args:
        content: All of its bytes.
        row: Its row of `read_files`.
        where: How the message names the file.

    Raises:
        DataError: naming the file, its patient and the command that mends it.
    """
    found = zlib.crc32(content)
    if len(content) != row["bytes"] or found != row["crc32"]:
        raise DataError(
            f"{where} of patient {row['patient_id']} is damaged: {len(content)} bytes with CRC-32 {found:08x}, "
            f"expected {row['bytes']} with {row['crc32']:08x}. {MEND}."
        )


def read_masks(content: bytes, where: str) -> dict[tuple[str, str], np.ndarray]:
    """The label maps of a file by (study_id, side), uint8 [D, H, W].

    Raises:
        DataError: if the file cannot be read in full.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            named = {name: stored[name] for name in stored.files}
    except Exception as error:  # zip, zlib and NumPy raise many kinds; every one means that the file is damaged
        raise DataError(f"{where} is damaged ({type(error).__name__}). {MEND}.") from error
    parts = {name: name.rpartition("|") for name in named}  # a side holds no bar, a study's identifier may
    return {(study, side): named[name] for name, (study, _, side) in parts.items()}


def check_files(folder: Path, *, content: bool, shards: bool) -> list[Finding]:
    """Findings on the files of a finished set.

    Args:
        folder: Folder of the set.
        content: Whether to read the label maps and compare their checksums, and not their sizes alone.
        shards: Whether to read every byte of the shards, too.
    """
    files = read_files(folder)
    if files is None:
        return [Finding("WARN", "its masks have no checksums", folder.name, FILES, RENEW)]
    findings = []
    for name, row in zip(files.index.tolist(), files.to_dict("records"), strict=True):
        path = folder / name
        where = f"{folder.name}/{name}"
        if not path.is_file():
            findings.append(Finding("FAIL", f"missing, of patient {row['patient_id']}", where, "the file", MEND))
        elif path.stat().st_size != row["bytes"]:
            found = f"{path.stat().st_size} bytes, of patient {row['patient_id']}"
            findings.append(Finding("FAIL", found, where, f"{row['bytes']} bytes", MEND))
        elif shards or (content and name.startswith("masks/")):
            try:
                check_bytes(path.read_bytes(), row, where)
            except (DataError, OSError) as error:
                findings.append(Finding("FAIL", str(error).rstrip("."), where))
    return findings
