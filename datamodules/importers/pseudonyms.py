"""Pseudonyms: names that mean nothing without a secret, and the folder outside the cohort that keeps it."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from filelock import FileLock

from datamodules.errors import DataError
from datamodules.files import replacing

KEY_FILE = "pseudonyms.key"
_KEY_BYTES = 32


class Naming(Protocol):
    """From the identifiers of a hospital to the identifiers of a cohort."""

    def patient(self, raw: str) -> str:
        """Identifier of a patient in the cohort."""

    def study(self, raw: str) -> str:
        """Identifier of an examination in the cohort."""

    def series(self, raw: str) -> str:
        """Identifier of a series in the cohort."""


class PublicNames:
    """Keeps identifiers as they are, for data that are published under them."""

    def patient(self, raw: str) -> str:
        """The identifier itself."""
        return raw

    study = series = patient


@dataclass(frozen=True)
class Pseudonyms:
    """Keyed pseudonyms: HMAC-SHA256 (RFC 2104) of an identifier, cut to 64 bits.

    The same key gives the same pseudonym in every import, so cohorts of one hospital can be joined; without the key
    a pseudonym cannot be checked against a list of candidates, as a plain hash could. Of a million patients two
    share one with a probability of 3e-8.

    Args:
        key: The secret, at least 16 bytes.
    """

    key: bytes

    @classmethod
    def load(cls, folder: Path, cohort: Path) -> Pseudonyms:
        """Read the key, or make it, with access for its owner only.

        An empty file from which nothing was named yet, as a full disk left it, gets its key now.

        Args:
            folder: Private folder; `pseudonyms.key` in it holds 32 random bytes as hexadecimal digits.
            cohort: Folder of the cohort, which must not hold the key.

        Raises:
            DataError: if the folder lies inside the cohort, others may read the key, or it is damaged.
        """
        check_outside(folder, cohort)
        path = folder / KEY_FILE
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists() or (not path.stat().st_size and not _used(folder, cohort)):
            _make_key(path)
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise DataError(
                f"{KEY_FILE} can be read by other users (mode {path.stat().st_mode & 0o777:o}); expected mode 600. "
                "Anyone who reads it can undo the pseudonyms: run chmod 600 on it."
            )
        try:
            key = bytes.fromhex(path.read_text(encoding="ascii").strip())
        except ValueError:
            key = b""
        if len(key) < 16:
            raise DataError(
                f"{KEY_FILE} holds no key; expected {2 * _KEY_BYTES} hexadecimal digits. Restore it from a copy: a new "
                "key gives every patient a new pseudonym."
            )
        return cls(key)

    def _name(self, kind: str, raw: str) -> str:
        return hmac.new(self.key, f"{kind}:{raw}".encode(), hashlib.sha256).hexdigest()[:16]

    def patient(self, raw: str) -> str:
        """Pseudonym of a patient, `p-` and 16 hexadecimal digits."""
        return f"p-{self._name('patient', raw)}"

    def study(self, raw: str) -> str:
        """Pseudonym of an examination, `e-` and 16 hexadecimal digits."""
        return f"e-{self._name('study', raw)}"

    def series(self, raw: str) -> str:
        """Pseudonym of a series, `s-` and 16 hexadecimal digits."""
        return f"s-{self._name('series', raw)}"


def _make_key(path: Path) -> None:
    with FileLock(path.with_name(f".{path.name}.lock")):  # two imports that both find none would make two
        if not path.exists() or not path.stat().st_size:
            with replacing(path, mode=0o600) as temporary:
                temporary.write_text(secrets.token_hex(_KEY_BYTES) + "\n", encoding="ascii")


def _used(folder: Path, cohort: Path) -> bool:
    """Whether a key has named anyone: in the cohort, or in an index of files beside the key."""
    traces = (*cohort.glob("cohort.json"), *cohort.glob(".build/*/*.json"), *folder.glob("index-*"))
    return bool(traces)


def check_outside(folder: Path, cohort: Path) -> None:
    """Refuse a private folder inside the cohort: whoever is given the cohort would be given the names too.

    Raises:
        DataError: if `folder` is `cohort` or lies in it.
    """
    if folder.resolve().is_relative_to(cohort.resolve()):
        raise DataError(
            "The private folder with the key of the pseudonyms lies inside the cohort; expected a place outside, for "
            "example beside it, that is not shared with the cohort."
        )


def private_folder(cohort: Path) -> Path:
    """Where the key and the list of files are kept by default: beside the cohort, under its name and `.private`."""
    return cohort.with_name(cohort.name + ".private")
