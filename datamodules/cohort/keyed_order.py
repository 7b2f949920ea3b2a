"""A number for every name that depends on the name, a seed and a purpose alone: what decides who is drawn.

A place in a list is no property of a patient: one more patient moves all behind it. A keyed hash is, so that a choice
made by it stays when a cohort grows, and two purposes or seeds choose independently.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np

Name = TypeVar("Name")


def keyed_units(names: Iterable[object], seed: int, purpose: str) -> np.ndarray:
    """The keyed hash of every name as a number that is uniform in [0, 1): BLAKE2b (RFC 7693), 53 of its bits.

    Args:
        names: Texts, or tuples of them.
        seed: Seed; another one gives independent numbers.
        purpose: What they decide, for example `split`; another one gives independent numbers.

    Returns:
        float64 [N].
    """
    key = hashlib.sha256(f"{purpose}/{seed}".encode()).digest()
    digests = (hashlib.blake2b(_encoded(name), key=key, digest_size=8).digest() for name in names)
    return np.array([(int.from_bytes(digest, "big") >> 11) / 2.0**53 for digest in digests], dtype=np.float64)


def keyed_order(names: Sequence[Name], seed: int, purpose: str) -> list[int]:
    """Places of the names in the order of their keyed hashes; a further name changes no order among the others.

    Args:
        names: Distinct texts, or tuples of them.
        seed: Seed.
        purpose: What the order decides.
    """
    units = keyed_units(names, seed, purpose)
    return sorted(range(len(names)), key=lambda place: (units[place], _encoded(names[place])))


def keyed_choice(names: Iterable[Name], count: int, seed: int, purpose: str) -> set[Name]:
    """The `count` distinct names whose keyed hashes are least; all where there are no more.

    A further name takes the place of at most one that was chosen.

    Args:
        names: Texts, or tuples of them.
        count: Number wanted.
        seed: Seed.
        purpose: What is chosen for.
    """
    distinct = list(dict.fromkeys(names))
    return {distinct[place] for place in keyed_order(distinct, seed, purpose)[:count]}


def _encoded(name: object) -> bytes:
    parts = name if isinstance(name, tuple) else (name,)
    return "\0".join(map(str, parts)).encode()
