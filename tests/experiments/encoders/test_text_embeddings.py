"""Geometry of embeddings: the formulas, their bootstrap, and ties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.errors import DataError
from experiments.encoders.text_embeddings import embed_texts
from experiments.statistics.bootstrap import mean_of
from experiments.statistics.embeddings import alignment, uniformity, wins, wins_over_all
from tests.lightning_modules.networks.text.test_encoding import TEXTS, _Encoder

RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.normal(size=(2, 12, 6)).astype(np.float32)
ONES = np.ones((1, 12), dtype=np.float32)


def test_alignment_and_uniformity_are_those_of_the_paper() -> None:
    x, y = (torch.nn.functional.normalize(torch.from_numpy(part).double()) for part in (FIRST, SECOND))
    align = (x - y).norm(p=2, dim=1).pow(2).mean().item()
    uniform = torch.pdist(x, p=2).pow(2).mul(-2).exp().mean().log().item()
    owner = np.arange(12)
    assert alignment(FIRST, SECOND, owner)(ONES)[0] == pytest.approx(align)
    assert uniformity(FIRST, owner)(ONES)[0] == pytest.approx(uniform)
    with pytest.raises(DataError, match="pairs"):
        alignment(FIRST, SECOND[:3], owner)


def test_weights_are_repeated_patients_and_scale_does_not_matter() -> None:
    owner = np.repeat(np.arange(6), 2)
    weights = np.array([[2, 1, 0, 3, 0, 0]], dtype=np.float32)
    rows = np.concatenate([np.flatnonzero(owner == patient) for patient in (0, 0, 1, 3, 3, 3)])
    again = np.ones((1, 12), dtype=np.float32)
    repeated = alignment(FIRST[rows], 3 * SECOND[rows], np.arange(12))(again)
    assert alignment(FIRST, SECOND, owner)(weights) == pytest.approx(repeated)
    # Copies of a patient are no pair, neither of each other nor of that patient.
    rows, patients = FIRST[owner != 5], owner[owner != 5]
    expected = [
        w * v * np.exp(-2 * np.square(a / np.linalg.norm(a) - b / np.linalg.norm(b)).sum())
        for a, p, w in zip(rows, patients, weights[0][patients], strict=True)
        for b, q, v in zip(rows, patients, weights[0][patients], strict=True)
        if p != q
    ]
    pairs = [weights[0][p] * weights[0][q] for p in patients for q in patients if p != q]
    assert uniformity(FIRST, owner)(weights)[0] == pytest.approx(np.log(sum(expected) / sum(pairs)))
    nobody = np.zeros((1, 6), dtype=np.float32)
    assert np.isnan(alignment(FIRST, SECOND, owner)(nobody)[0])
    assert np.isnan(uniformity(FIRST, owner)(nobody)[0])


def test_a_paraphrase_wins_loses_or_ties() -> None:
    query = np.array([[1.0, 0.0]] * 3)
    near, far = np.array([[2.0, 0.1]] * 3), np.array([[0.1, 2.0], [2.0, 0.0], [4.0, 0.2]])
    assert wins(query, near, far).tolist() == [1.0, 0.0, 0.5]
    each = np.array([1.0, 1.0, 0.5, 1.0, 0.5, 0.5, 0.0, 0.5])
    question = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    assert wins_over_all(each, question, 4).tolist() == [1.0, 0.5, pytest.approx(1 / 3), 0.0]


def test_a_mean_is_of_the_weighted_patients() -> None:
    statistic = mean_of(np.array([1.0, 3.0, 8.0]), 0.0, 8.0, np.array([0, 0, 1]))
    assert statistic(np.array([[1, 1], [1, 0], [0, 2]], dtype=np.float32)) == pytest.approx([4.0, 2.0, 8.0])


class _Named(_Encoder):
    def fingerprint(self) -> str:
        return "tiny"


def test_embeddings_are_computed_once_and_kept(tmp_path: Path) -> None:
    encoder = _Named()
    first = embed_texts(encoder, TEXTS, tmp_path)
    computed = len(encoder.shapes)
    assert np.array_equal(embed_texts(encoder, TEXTS[::-1], tmp_path), first[::-1])
    assert len(encoder.shapes) == computed
    embed_texts(encoder, [*TEXTS, "another one"], tmp_path)
    assert encoder.shapes[computed:] == [(1, 12)]
