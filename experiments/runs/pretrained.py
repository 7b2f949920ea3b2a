"""The name of a pretraining: its seed, and the TAG of one whose settings were changed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from datamodules.errors import DataError


@dataclass(frozen=True)
class Pretrained:
    """Which pretraining an encoder, an aligned model or a report writer comes from.

    Args:
        seed: Its SEED.
        tag: Its TAG; empty for one of unchanged settings.
    """

    seed: int = 42
    tag: str = ""

    def __str__(self) -> str:
        return f"s{self.seed}" + (f"-{self.tag}" if self.tag else "")


def pretrained_from(name: str) -> Pretrained:
    """The pretraining of a name.

    Args:
        name: `s42`, or `s42-mytag`.

    Raises:
        DataError: if it is none.
    """
    found = re.fullmatch(r"s(\d{1,10})(?:-([\w.-]+))?", name)
    if found is None:
        raise DataError(
            f"PRETRAINED={name[:80]} was asked for; expected s and its SEED, as s42, or with its TAG s42-mytag."
        )
    return Pretrained(int(found[1]), found[2] or "")
