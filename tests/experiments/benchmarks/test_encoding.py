"""The encoding benchmark: both ways embed the same texts equally, and its figures add up."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.benchmarks import encoding
from experiments.pretraining.evaluation.text_systems import TextBase
from lightning_modules.networks.text.encoder import TextEncoder
from tests.experiments.text_cohort import tiny_base


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    base = tiny_base(tmp_path_factory.mktemp("base"))
    return TextEncoder(TextBase(str(base), None, "none", 224).config(bidirectional=True), "cpu")


def test_both_ways_embed_alike_and_tokens_add_up(encoder: TextEncoder) -> None:
    texts = [*encoding.reports(3), *encoding.reports(2)]
    figures = encoding.compare(encoder, texts, rounds=1)
    assert figures["texts"] == 10
    assert figures["distinct_texts"] == len(set(texts)) < 10
    assert figures["tokens_of_distinct_texts"] < figures["tokens"] < figures["tokens_padded_32_at_a_time"]
    assert figures["tokens_padded_64_at_a_time"] >= figures["tokens_padded_32_at_a_time"]
    assert figures[encoding.PLAIN]["ratio_to_reference"] == 1.0
    assert 0 <= figures["largest_relative_difference"] <= encoding.TOLERANCE


def test_embeddings_that_differ_stop_it(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "encode_texts", lambda encoder, texts: np.zeros((len(texts), 32), np.float32))
    with pytest.raises(AssertionError, match="embeddings differ"):
        encoding.compare(encoder, encoding.reports(2), rounds=1)


def test_reports_are_those_of_the_generator_patient_by_patient() -> None:
    found = encoding.reports(2)
    assert len(found) == 4
    assert found == encoding.reports(2)
