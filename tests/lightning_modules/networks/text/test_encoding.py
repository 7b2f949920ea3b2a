"""Encoding many texts: the numbers of encoding them one by one, each distinct text once, within the budget."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_modules.core.errors import ModelError
from lightning_modules.networks.text.encoding import encode_texts, length_batches

TEXTS = ["one two three", "four", "", "one two three", "five six seven eight nine ten", "two four", "four"]


class _Encoder(nn.Module):
    """Attention over letters with dropout: padding and company would show if they leaked."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.feature_dim = 8
        self.embedding = nn.Embedding(128, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.shapes: list[tuple[int, int]] = []

    def tokenize(self, texts: list[str]) -> dict[str, Tensor]:
        rows = [[1, *(ord(letter) % 128 for letter in text)] for text in texts]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": mask}

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        self.shapes.append(tuple(input_ids.shape))  # type: ignore[arg-type]
        states = self.layers(self.embedding(input_ids), src_key_padding_mask=attention_mask == 0)
        weight = attention_mask[..., None].float()
        return (states * weight).sum(1) / weight.sum(1)


@pytest.mark.parametrize("budget", [1, 20, 64, 10_000])
def test_equals_encoding_one_by_one_in_the_order_given(budget: int) -> None:
    encoder = _Encoder()
    alone = np.concatenate([encode_texts(encoder, [text]) for text in TEXTS])
    assert np.abs(encode_texts(encoder, TEXTS, budget) - alone).max() < 1e-5


def test_each_distinct_text_is_encoded_once_and_the_mode_is_restored() -> None:
    encoder = _Encoder().train()
    seen: list[tuple[int, int]] = []
    encode_texts(encoder, TEXTS, 40, lambda done, total: seen.append((done, total)))
    assert sum(rows for rows, _ in encoder.shapes) == len(set(TEXTS))
    assert all(rows == 1 or rows * longest <= 40 for rows, longest in encoder.shapes)
    assert encoder.training
    assert seen[-1] == (len(set(TEXTS)), len(set(TEXTS)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_no_text_is_no_row() -> None:
    assert encode_texts(_Encoder(), []).shape == (0, 8)


def test_batches_hold_every_row_once_and_the_longest_first() -> None:
    counts = np.random.default_rng(0).integers(1, 60, 100)
    batches = list(length_batches(counts, 128))
    assert sorted(row for rows in batches for row in rows) == list(range(100))
    longest = [int(counts[rows].max()) for rows in batches]
    assert longest == sorted(longest, reverse=True)
    assert all(len(rows) * length <= 128 for rows, length in zip(batches, longest, strict=True))
    # Another row would not have fitted: no batch is smaller than it must be, but for the last.
    assert all((len(rows) + 1) * length > 128 for rows, length in zip(batches[:-1], longest, strict=False))


def test_what_is_not_finite_or_not_positive_is_refused() -> None:
    encoder = _Encoder()
    with pytest.raises(ModelError, match="tokens_per_batch"):
        encode_texts(encoder, TEXTS, 0)
    with torch.no_grad():
        encoder.embedding.weight[ord("x")] = float("nan")
    with pytest.raises(ModelError, match="1 of 3 texts"):
        encode_texts(encoder, ["a", "x", "b"])
