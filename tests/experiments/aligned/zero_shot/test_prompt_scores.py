"""The zero-shot strategies against loops and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from datamodules.errors import DataError
from experiments.aligned.zero_shot.prompt_scores import (
    auroc_columns,
    auroc_of_draws,
    check_unit,
    draw_prompts,
    max_similarity,
    mean_prompt,
    softmax,
)
from experiments.statistics.means import owner_mean


def unit(rng: np.random.Generator, rows: int, width: int = 8) -> np.ndarray:
    values = rng.normal(size=(rows, width))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(params=[2, 3])
def case(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images [40, 8], prompts [24, 8], class of each prompt, target of each image."""
    rng = np.random.default_rng(request.param)
    code = np.repeat(np.arange(request.param), 24 // request.param)
    return unit(rng, 40), unit(rng, 24), code, rng.permutation(np.arange(40) % request.param)


def test_mean_prompt_and_max_similarity_are_those_of_loops(case) -> None:
    images, prompts, code, _ = case
    for number in range(code.max() + 1):
        own = prompts[code == number].astype(float)
        mean = own.sum(axis=0) / np.linalg.norm(own.sum(axis=0))
        for row, image in enumerate(images.astype(float)):
            assert mean_prompt(images, prompts, code)[row, number] == pytest.approx(float(image @ mean), abs=1e-6)
            best = max(float(image @ prompt) for prompt in own)
            assert max_similarity(images, prompts, code)[row, number] == pytest.approx(best, abs=1e-6)


def test_strategies_do_not_depend_on_the_order_of_prompts(case) -> None:
    images, prompts, code, _ = case
    order = np.random.default_rng(0).permutation(len(code))
    for strategy in (mean_prompt, max_similarity):
        np.testing.assert_allclose(
            strategy(images, prompts, code), strategy(images, prompts[order], code[order]), atol=1e-12
        )


def test_draws_take_one_prompt_of_each_class_and_all_of_them_in_the_end(case) -> None:
    _, _, code, _ = case
    draws = draw_prompts(code, 1000, seed=1)
    for number in range(code.max() + 1):
        assert set(draws[:, number]) == set(np.flatnonzero(code == number))
    np.testing.assert_array_equal(draws, draw_prompts(code, 1000, seed=1))
    assert (draws != draw_prompts(code, 1000, seed=2)).any()


def test_auc_of_draws_is_scikit_learns(case) -> None:
    images, prompts, code, target = case
    draws = draw_prompts(code, 30, seed=0)
    similarity = images.astype(float) @ prompts.T.astype(float)
    found = auroc_of_draws(target, similarity, draws, scale=7.0)
    for draw, value in zip(draws, found, strict=True):
        probability = softmax(similarity[:, draw], 7.0)
        score = probability[:, 1] if len(draw) == 2 else probability
        expected = roc_auc_score(target, score, multi_class="ovr") if len(draw) > 2 else roc_auc_score(target, score)
        assert value == pytest.approx(expected)


def test_ties_count_half_and_an_absent_class_gives_no_auc() -> None:
    positive = np.array([True, False, True, False])
    np.testing.assert_allclose(auroc_columns(positive, np.array([[1.0], [1.0], [2.0], [0.0]])), [0.875])
    assert np.isnan(auroc_columns(np.ones(4, dtype=bool), np.zeros((4, 1)))).all()


def test_samples_of_a_patient_are_averaged_and_a_patient_without_sample_is_missing() -> None:
    found = owner_mean(np.array([[1.0], [3.0], [5.0]]), np.array([0, 0, 2]), 3)
    np.testing.assert_array_equal(found, [[2.0], [np.nan], [5.0]])


def test_softmax_sums_to_one_and_does_not_overflow() -> None:
    found = softmax(np.array([[1.0, -1.0, 0.5]]), 1000.0)
    assert found.sum() == pytest.approx(1.0)
    assert found[0, 0] == pytest.approx(1.0)


def test_bad_input_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="without a gap"):
        mean_prompt(unit(rng, 3), unit(rng, 4), np.array([0, 0, 2, 2]))
    with pytest.raises(DataError, match="must match"):
        max_similarity(unit(rng, 3), unit(rng, 4), np.array([0, 1, 1]))
    with pytest.raises(DataError, match="2 of 2 embeddings of prompts are not of unit length"):
        mean_prompt(unit(rng, 3), 2 * unit(rng, 2), np.array([0, 1]))
    with pytest.raises(DataError, match="not of unit length"):
        check_unit(np.full((1, 4), np.nan), "images")
    with pytest.raises(DataError, match="at least 1"):
        draw_prompts(np.array([0, 1]), 0, 0)
