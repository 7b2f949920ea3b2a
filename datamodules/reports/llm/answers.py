"""Answers of an extractor on disk, one file a report, so that a report is never read twice."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.errors import DataError
from datamodules.files import read_json, write_json
from datamodules.reports.reader.statements import Statement, check_statement


@dataclass(frozen=True)
class StatementCache:
    """Statements by report.

    The files hold offsets and no text of a report. A file that is damaged is redone.

    Args:
        folder: Where the files lie.
        fingerprint: Of the extractor; each has a folder of its own.
        classes: Classes by attribute, to check what is read.
    """

    folder: Path
    fingerprint: str
    classes: dict[str, tuple[str, ...]]

    def load(self, report: str, sentences: Sequence[tuple[str, int, int]]) -> list[Statement] | None:
        """The stored statements of a report; None where there are none, or with a warning where they are damaged.

        Args:
            report: The report.
            sentences: Its sentences as they were shown; a report that is taken apart otherwise is another one.
        """
        path = self._path(report, sentences)
        if not path.is_file():
            return None
        try:
            content = read_json(path)
            rows = content["statements"]
            if content["digest"] != _digest(rows):
                raise DataError("its digest is another")
            statements = [_statement(row, report) for row in rows]
            for statement in statements:
                check_statement(statement, report, self.classes)
        except (DataError, OSError, KeyError, TypeError, UnicodeDecodeError) as error:
            warnings.warn(
                f"The stored answers {path.parent.name}/{path.name} are damaged ({error}); the report is read again.",
                stacklevel=2,
            )
            return None
        return statements

    def store(self, report: str, sentences: Sequence[tuple[str, int, int]], statements: Sequence[Statement]) -> None:
        """Keep the statements of a report; arguments as `load`."""
        rows = [
            [entry.side, entry.attribute, entry.value, entry.start, entry.end, entry.confidence, entry.uncertain]
            for entry in statements
        ]
        write_json(self._path(report, sentences), {"statements": rows, "digest": _digest(rows)})

    def _path(self, report: str, sentences: Sequence[tuple[str, int, int]]) -> Path:
        content = json.dumps([report, list(sentences)])
        return self.folder / self.fingerprint / f"{hashlib.sha256(content.encode()).hexdigest()[:24]}.json"


def _digest(rows: list[Any]) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def _statement(row: list[Any], report: str) -> Statement:
    side, attribute, value, start, end, confidence, uncertain = row
    return Statement(side, attribute, value, start, end, report[start:end], confidence, uncertain)
