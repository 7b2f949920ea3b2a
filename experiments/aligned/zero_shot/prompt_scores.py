"""Zero-shot classification by prompts: pure functions on unit embeddings.

Strategies: the class embedding as the normalised mean of its prompts (Radford et al., ICML 2021); the nearest prompt of
each class; and random draws of one prompt per class, whose spread says how much a figure owes to the wording (Lu et
al., Nature Medicine 2024).
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from datamodules.errors import DataError

_AT_ONCE = 1 << 22  # scores of a block of draws


def check_prompts(prompts: np.ndarray, code: np.ndarray) -> int:
    """Check embeddings and classes of prompts.

    Args:
        prompts: float [M, d], of unit length.
        code: int [M], class of every prompt.

    Returns:
        The number of classes.

    Raises:
        DataError: if a class has no prompt, the shapes differ, or an embedding is not of unit length.
    """
    if prompts.ndim != 2 or code.shape != prompts.shape[:1] or not len(code):
        raise DataError(f"Prompts {prompts.shape} and classes {code.shape} must match [M, d] and [M].")
    present = np.unique(code)
    if len(present) < 2 or not np.array_equal(present, np.arange(len(present))):
        raise DataError(f"Prompts of the classes {present.tolist()} were found; expected 0, 1, ... without a gap.")
    check_unit(prompts, "prompts")
    return len(present)


def check_unit(embeddings: np.ndarray, what: str) -> None:
    """Refuse embeddings that are not of unit length.

    Raises:
        DataError: naming how many are not.
    """
    wrong = int((~(np.abs(np.linalg.norm(embeddings, axis=1) - 1) < 1e-3)).sum())
    if wrong:
        raise DataError(f"{wrong} of {len(embeddings)} embeddings of {what} are not of unit length; normalise them.")


def mean_prompt(images: np.ndarray, prompts: np.ndarray, code: np.ndarray) -> np.ndarray:
    """Cosine similarity to the normalised mean of each class's prompts.

    Args:
        images: float [N, d], of unit length.
        prompts: float [M, d], of unit length.
        code: int [M], class of every prompt.

    Returns:
        float64 [N, C].
    """
    return images.astype(np.float64) @ class_means(prompts, code).T


def class_means(prompts: np.ndarray, code: np.ndarray) -> np.ndarray:
    """Unit vectors float64 [C, d] of the classes: the normalised mean of each class's prompts, as of `mean_prompt`."""
    classes = check_prompts(prompts, code)
    means = np.stack([prompts[code == number].mean(axis=0, dtype=np.float64) for number in range(classes)])
    unit: np.ndarray = means / np.linalg.norm(means, axis=1, keepdims=True)
    return unit


def max_similarity(images: np.ndarray, prompts: np.ndarray, code: np.ndarray) -> np.ndarray:
    """Cosine similarity to the nearest prompt of each class; arguments and result as of `mean_prompt`."""
    classes = check_prompts(prompts, code)
    similarity = images.astype(np.float64) @ prompts.astype(np.float64).T
    return np.stack([similarity[:, code == number].max(axis=1) for number in range(classes)], axis=1)


def draw_prompts(code: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Random choices of one prompt per class.

    Args:
        code: int [M], class of every prompt.
        draws: Number of choices.
        seed: Seed.

    Returns:
        int64 [draws, C], positions of prompts; column c holds prompts of class c.

    Raises:
        DataError: if no draw was asked for.
    """
    if draws < 1:
        raise DataError(f"{draws} random prompt pairs were asked for; expected at least 1.")
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(code == number) for number in range(int(code.max()) + 1)]
    return np.stack([own[rng.integers(len(own), size=draws)] for own in members], axis=1)


def softmax(scores: np.ndarray, scale: float) -> np.ndarray:
    """Scores over the last axis: the softmax of similarities times the model's logit scale.

    They sum to 1 and are no probabilities: the scale was learned to tell pairs of images and reports apart.
    """
    shifted = scale * (scores - scores.max(axis=-1, keepdims=True))
    exponent = np.exp(shifted)
    score: np.ndarray = exponent / exponent.sum(axis=-1, keepdims=True)
    return score


def auroc_of_draws(target: np.ndarray, similarity: np.ndarray, draws: np.ndarray, scale: float) -> np.ndarray:
    """AUC of every random choice of prompts; for more than two classes the mean one-vs-rest AUC.

    Args:
        target: int [N], class indices.
        similarity: float [N, M], of patients and prompts.
        draws: int [R, C], as `draw_prompts` gives them.
        scale: The model's logit scale; it matters for more than two classes only.

    Returns:
        float64 [R]; NaN where a class has no patient.
    """
    result = np.empty(len(draws))
    step = max(1, _AT_ONCE // max(1, similarity.shape[0] * draws.shape[1]))
    for start in range(0, len(draws), step):
        part = similarity[:, draws[start : start + step]]  # [N, r, C]
        if draws.shape[1] == 2:
            values = [auroc_columns(target == 1, part[..., 1] - part[..., 0])]
        else:
            chance = softmax(part, scale)
            values = [auroc_columns(target == number, chance[..., number]) for number in range(draws.shape[1])]
        result[start : start + step] = np.mean(values, axis=0)
    return result


def auroc_columns(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """AUC of every column of scores by ranks (Mann-Whitney), ties counting half.

    Args:
        positive: bool [N].
        scores: float [N, R].

    Returns:
        float64 [R]; NaN where a class is absent.
    """
    ups = int(positive.sum())
    downs = len(positive) - ups
    if not ups or not downs:
        return np.full(scores.shape[1], np.nan)
    ranks = rankdata(scores, axis=0)[positive].sum(axis=0)
    return (ranks - ups * (ups + 1) / 2) / (ups * downs)
