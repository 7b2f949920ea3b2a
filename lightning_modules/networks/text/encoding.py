"""Embedding many texts: each distinct text once, in batches of like length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lightning_modules.core.errors import ModelError
from lightning_modules.networks.text.adapters import merged

TOKENS_PER_BATCH = 2048
"""Tokens of a batch, padding included; on a CPU larger batches are not faster, on a GPU raise it."""
_TOKENISED_AT_ONCE = 512


class EncodesText(Protocol):
    """What `encode_texts` needs of an encoder; `networks.text.TextEncoder` is one."""

    training: bool

    @property
    def feature_dim(self) -> int:
        """Width of an embedding."""

    def tokenize(self, texts: list[str]) -> Mapping[str, Tensor]:
        """`input_ids` and `attention_mask`, int64 [B, T], padded to the longest and truncated."""

    def __call__(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embeddings, float32 [B, feature_dim]."""

    def parameters(self) -> Iterator[Tensor]:
        """Its weights."""

    def train(self, mode: bool) -> object:
        """Switch dropout on or off."""


def encode_texts(
    encoder: EncodesText,
    texts: Sequence[str],
    tokens_per_batch: int = TOKENS_PER_BATCH,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Embed texts without gradient and without dropout.

    Reports repeat themselves (a normal kidney is described in a handful of sentences) and vary in length. So each
    distinct text is encoded once, the longest first, so that a batch that does not fit fails at once; texts of a batch
    are of like length, and as many as `tokens_per_batch` allows.

    Args:
        encoder: The encoder; its mode is restored afterwards.
        texts: Texts, in any order.
        tokens_per_batch: Largest number of tokens of a batch, padding included; a longer text is a batch of its own.
        progress: Called with the number of distinct texts done and of all distinct texts, after every batch.

    Returns:
        float32 [N, feature_dim] in the order of `texts`; equal to encoding them one by one up to rounding.

    Raises:
        ModelError: if an embedding is not finite, or `tokens_per_batch` is not positive.
    """
    if tokens_per_batch < 1:
        raise ModelError(f"tokens_per_batch is {tokens_per_batch}; expected at least 1.")
    distinct = list(dict.fromkeys(texts))
    vectors = np.empty((len(distinct), encoder.feature_dim), dtype=np.float32)
    device = next(iter(encoder.parameters())).device
    done, was_training = 0, encoder.training
    encoder.train(False)
    try:
        with merged(encoder), torch.inference_mode():
            for rows in length_batches(token_counts(encoder, distinct), tokens_per_batch):
                tokens = encoder.tokenize([distinct[row] for row in rows])
                found = encoder(tokens["input_ids"].to(device), tokens["attention_mask"].to(device))
                vectors[rows] = _finite(found.float().cpu().numpy())
                done += len(rows)
                if progress is not None:
                    progress(done, len(distinct))
    finally:
        encoder.train(was_training)
    row_of = {text: row for row, text in enumerate(distinct)}
    return vectors[[row_of[text] for text in texts]]


def token_counts(encoder: EncodesText, texts: Sequence[str]) -> np.ndarray:
    """Number of tokens of every text as the encoder reads it, int64 [N]."""
    counts = [np.zeros(0, dtype=np.int64)]
    for start in range(0, len(texts), _TOKENISED_AT_ONCE):
        tokens = encoder.tokenize(list(texts[start : start + _TOKENISED_AT_ONCE]))
        counts.append(tokens["attention_mask"].sum(dim=1).cpu().numpy())
    return np.concatenate(counts)


def length_batches(counts: np.ndarray, tokens_per_batch: int) -> Iterator[list[int]]:
    """Batches of rows, the longest texts first; rows times the longest of a batch stay within the budget.

    Args:
        counts: int [N], tokens of every row.
        tokens_per_batch: Budget; a row above it is a batch of its own.

    Yields:
        Row numbers; every row is in one batch.
    """
    order, start = np.argsort(-counts, kind="stable"), 0
    while start < len(order):
        size = max(1, tokens_per_batch // max(1, int(counts[order[start]])))
        yield order[start : start + size].tolist()
        start += size


def _finite(vectors: np.ndarray) -> np.ndarray:
    if not np.isfinite(vectors).all():
        raise ModelError(
            f"{int((~np.isfinite(vectors)).any(axis=1).sum())} of {len(vectors)} texts of a batch have an embedding "
            "that is not finite; expected finite numbers. Use compute_dtype float32 or look at the adapter's training."
        )
    return vectors
