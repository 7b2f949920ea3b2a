"""Embeddings of texts that are computed once and kept: encoder, cache and progress together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from datamodules.reports.embedding_cache import EmbeddingCache
from lightning_modules.networks.text.encoding import TOKENS_PER_BATCH, EncodesText, encode_texts

_KEPT_AT_ONCE = 256


class HasFingerprint(EncodesText, Protocol):
    """An encoder that says what its embeddings depend on."""

    def fingerprint(self) -> str:
        """Hash of everything that an embedding depends on."""


def embed_texts(
    encoder: HasFingerprint,
    texts: Sequence[str],
    folder: Path,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Embeddings of texts; those that the cache holds are read, the others are computed and kept.

    What is computed is kept every 256 texts, so an interrupted run goes on where it was.

    Args:
        encoder: The encoder.
        texts: Texts, in any order.
        folder: Folder of all caches.
        tokens_per_batch: As `encode_texts`.
        progress: Called with the number of texts computed and to compute.

    Returns:
        float32 [N, feature_dim] in the order of `texts`.
    """
    cache = EmbeddingCache(folder, encoder.fingerprint(), encoder.feature_dim)
    # Like lengths together across the parts, too; characters tell tokens well enough.
    missing = sorted(cache.missing(texts), key=len, reverse=True)
    for start in range(0, len(missing), _KEPT_AT_ONCE):
        part = missing[start : start + _KEPT_AT_ONCE]
        report = None if progress is None else _shifted(progress, start, len(missing))
        cache.add(part, encode_texts(encoder, part, tokens_per_batch, report))
    return cache.rows(texts)


def _shifted(progress: Callable[[int, int], None], start: int, total: int) -> Callable[[int, int], None]:
    return lambda done, _: progress(start + done, total)
