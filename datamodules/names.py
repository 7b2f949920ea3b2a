"""Names that become folders and identifiers that become keys: one pattern each, held at import and at load."""

from __future__ import annotations

import re
import unicodedata

from datamodules.errors import DataError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""A name that becomes part of a path or of the name of a run: no separator, no parent folder, no space."""
_LONGEST = 128
_KEYS = "|/\\"
"""Characters that join identifiers in keys, and that separate folders."""
_INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode categories of characters that are not seen, by which two identifiers would differ and look the same."""
PLAIN = r"[A-Za-z0-9._:+-]{1,128}"
"""Identifiers without a character that would have to be looked at, as most are."""
IDENTIFIER = (
    f"1 to {_LONGEST} visible characters of Unicode in composed form (NFC), without space at the ends and without "
    f"{' '.join(_KEYS)}"
)
"""What an identifier is, in words."""


def check_name(what: str, name: str) -> str:
    """The name itself, if it may become part of a path.

    Args:
        what: What it names, for the error, for example `TAG`.
        name: The name.

    Raises:
        DataError: if it may not.
    """
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        raise DataError(
            f"{what}={str(name)[:80]!r} was found; it becomes part of a folder's name, so it may hold up to 64 letters "
            "of English, digits, dots, underscores and hyphens, and begins with a letter or a digit."
        )
    return name


def is_identifier(text: str) -> bool:
    """Whether a text may name a centre, patient, study, series or report.

    Identifiers may be of any script. Two that look the same are the same: NFC is asked for, not made, since what was
    changed silently would not be found again in its source.
    """
    return (
        0 < len(text) <= _LONGEST
        and text == text.strip()
        and not any(character in _KEYS or unicodedata.category(character) in _INVISIBLE for character in text)
        and unicodedata.is_normalized("NFC", text)
    )
