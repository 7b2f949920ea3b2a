"""Texts for masked next-token prediction out of a folder of .txt and .csv files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd

from datamodules.errors import DataError

TEXT_COLUMN = "text"


def read_corpus(folder: Path, column: str = TEXT_COLUMN) -> list[str]:
    """The distinct texts of a folder, in the order of its files.

    Args:
        folder: Folder whose `.txt` files, at any depth, each hold one text, and whose `.csv` files hold one text a row
            in one column.
        column: That column.

    Raises:
        DataError: if there is no such folder, no text, a file that is not UTF-8, or a CSV without that column.
    """
    if not folder.is_dir():
        raise DataError(f"corpus={folder.name} is no folder; expected one of .txt and .csv files.")
    texts: dict[str, None] = {}
    for path in sorted([*folder.rglob("*.txt"), *folder.rglob("*.csv")]):
        for text in _texts(path, column):
            cleaned = text.strip()
            if cleaned:
                texts[cleaned] = None
    if not texts:
        raise DataError(
            f"corpus={folder.name} holds no text; expected .txt files or .csv files with a column `{column}`."
        )
    return list(texts)


def held_out(text: str, share: float) -> bool:
    """Whether a text of a corpus is kept for validation; it depends on the text only."""
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return number < share * 2**64


def _texts(path: Path, column: str) -> list[str]:
    try:
        if path.suffix == ".txt":
            return [path.read_text(encoding="utf-8")]
        frame = pd.read_csv(path, dtype="string", encoding="utf-8")
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(
            f"{path.name} of the corpus could not be read ({type(error).__name__}); expected UTF-8 text, or a CSV "
            f"with a column `{column}`."
        ) from error
    if column not in frame:
        raise DataError(
            f"{path.name} of the corpus has the columns {list(frame)[:8]}; expected one named `{column}`, or name the "
            "column that holds the texts."
        )
    return [str(text) for text in frame[column].dropna()]
