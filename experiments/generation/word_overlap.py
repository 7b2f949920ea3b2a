"""Word overlap of generated and reference reports, kept report by report so that a bootstrap only weighs it anew."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from nltk.stem.porter import PorterStemmer
from nltk.translate.meteor_score import single_meteor_score
from sacrebleu.metrics.bleu import BLEU
from torchmetrics.functional.text import rouge_score

from datamodules.errors import DataError
from experiments.statistics.proportions import unlike_share
from experiments.statistics.support import Interval, Support

ORDERS = 4
"""Longest n-gram of BLEU and CIDEr."""
_CIDER_SIGMA = 6.0
CIDER_COPY = 10.0
"""CIDEr-D of a copy of the reference, its greatest value."""
_STEMMER = PorterStemmer()
_WORD = re.compile(r"[a-z0-9]+(?:[.'-][a-z0-9]+)*")


def words(text: str) -> list[str]:
    """Words and numbers of a text in lower case, without punctuation."""
    return _WORD.findall(text.lower())


@dataclass(frozen=True)
class WordScores:
    """What the word metrics of a corpus are made of, a row per report.

    Args:
        matches: float [N, 4], n-grams that the reference has too, clipped.
        totals: float [N, 4], n-grams of the generated report.
        lengths: float [N], words of the generated report.
        references: float [N], words of the reference.
        meteor: float [N] in [0, 1].
        rouge_l: float [N] in [0, 1].
        cider: float [N], at least 0; 10 for a copy.
    """

    matches: np.ndarray
    totals: np.ndarray
    lengths: np.ndarray
    references: np.ndarray
    meteor: np.ndarray
    rouge_l: np.ndarray
    cider: np.ndarray


class _NoSynonyms:
    """Stands for WordNet, which is a download of its own: numbers must not depend on whether it is there."""

    def synsets(self, word: str, pos: str | None = None) -> list[object]:
        """No word has synonyms."""
        return []


def word_scores(generated: Sequence[str], references: Sequence[str]) -> WordScores:
    """Score each generated report against its reference.

    BLEU's counts are sacreBLEU's (Papineni et al., ACL 2002; Post, WMT 2018), METEOR is NLTK's with exact and stem
    matches and no synonyms (Banerjee and Lavie, ACL 2005), ROUGE-L is the F1 of torchmetrics (Lin, ACL 2004), CIDEr is
    `cider_d` (Vedantam et al., CVPR 2015). All see the same `words`.

    Args:
        generated: Generated reports; an empty one scores 0.
        references: Reference of each.

    Raises:
        DataError: if their numbers differ or a reference has no word.
    """
    if len(generated) != len(references):
        raise DataError(f"{len(generated)} generated reports and {len(references)} references; expected one of each.")
    said, meant = [words(text) for text in generated], [words(text) for text in references]
    empty = sum(not tokens for tokens in meant)
    if empty:
        raise DataError(f"{empty} of {len(meant)} reference reports have no word; leave their kidneys out.")
    pairs = [_overlap(" ".join(a), " ".join(b)) for a, b in zip(said, meant, strict=True)]
    return WordScores(
        np.array([pair.matches for pair in pairs], dtype=np.float64).reshape(-1, ORDERS),
        np.array([pair.totals for pair in pairs], dtype=np.float64).reshape(-1, ORDERS),
        np.array([len(tokens) for tokens in said], dtype=np.float64),
        np.array([len(tokens) for tokens in meant], dtype=np.float64),
        np.array([pair.meteor for pair in pairs], dtype=np.float64),
        np.array([pair.rouge_l for pair in pairs], dtype=np.float64),
        cider_d(said, meant),
    )


class _Pair(NamedTuple):
    """Word overlap of one report with its reference, which depends on no other."""

    matches: list[int]
    totals: list[int]
    meteor: float
    rouge_l: float


@lru_cache(maxsize=1 << 16)  # groups of centres share their kidneys, and many kidneys a report
def _overlap(said: str, meant: str) -> _Pair:
    bleu = BLEU(tokenize="none", smooth_method="none", force=True).corpus_score([said], [[meant]])
    tokens = said.split()
    meteor = single_meteor_score(meant.split(), tokens, stemmer=_STEMMER, wordnet=_NoSynonyms()) if tokens else 0.0
    rouge = rouge_score(said, meant, rouge_keys="rougeL", tokenizer=str.split, normalizer=str)
    return _Pair(bleu.counts, bleu.totals, meteor, float(rouge["rougeL_fmeasure"]))


def corpus_bleu(scores: WordScores, weights: np.ndarray, order: int) -> np.ndarray:
    """BLEU of the whole corpus up to an order, for many weightings of its reports.

    Args:
        scores: As `word_scores` gives them.
        weights: float [R, N].
        order: Longest n-gram, 1 to 4.

    Returns:
        float64 [R] in [0, 1]; 0 where an order has no match.
    """
    matches = weights @ scores.matches[:, :order]
    totals = weights @ scores.totals[:, :order]
    lengths, references = weights @ scores.lengths, weights @ scores.references
    matched = (matches > 0).all(axis=1)
    value = np.zeros(len(weights))
    precision = np.log(matches[matched] / totals[matched]).mean(axis=1)
    value[matched] = np.exp(precision + np.minimum(0.0, 1 - references[matched] / lengths[matched]))
    return value


@dataclass(frozen=True)
class BleuSupport(Support):
    """Support of a corpus BLEU.

    Args:
        precisions: Share of the n-grams of every order that match.
    """

    precisions: tuple[float, ...] = ()

    def interval(self, value: float) -> Interval:
        """Clopper and Pearson's share of unlike patients, of whom every n-gram may match, or none.

        A BLEU of 0 may have matches of most orders, so that few patients raise it by more than their share.
        """
        found = super().interval(value)
        if value > 0 or not np.isfinite(found.low):
            return found
        unlike = unlike_share(self.units)
        high = math.exp(np.mean(np.log([own + unlike * (1 - own) for own in self.precisions])))
        return found._replace(high=max(found.high, high))


def bleu_support(scores: WordScores, order: int, patients: int) -> BleuSupport:
    """Support of `corpus_bleu` of the same reports."""
    matches, totals = scores.matches[:, :order].sum(axis=0), scores.totals[:, :order].sum(axis=0)
    precisions = np.divide(matches, totals, out=np.zeros(order), where=totals > 0)
    return BleuSupport(0.0, 1.0, patients, tuple(precisions.tolist()))


def cider_d(said: Sequence[Sequence[str]], meant: Sequence[Sequence[str]]) -> np.ndarray:
    """CIDEr-D of each report against its one reference (Vedantam et al., CVPR 2015).

    Cosine similarity of n-gram counts weighted by their rareness among the references, counts clipped at those of the
    reference, with a Gaussian penalty of the difference in length, averaged over n of 1 to 4, times 10. Written here
    because its packages bring a Java runtime's archives or models of audio with them.

    Args:
        said: Words of the generated reports.
        meant: Words of the references, which are also the corpus that rareness is counted in.

    Returns:
        float64 [N].
    """
    reference = [_ngrams(tokens) for tokens in meant]
    documents = Counter(gram for grams in reference for gram in grams)
    largest = math.log(max(1, len(meant)))
    result = np.zeros(len(said))
    for row, (tokens, target) in enumerate(zip(said, reference, strict=True)):
        own, own_norm = _weighted(_ngrams(tokens), documents, largest)
        other, other_norm = _weighted(target, documents, largest)
        similarity = np.zeros(ORDERS)
        for gram, weight in own.items():
            if gram in other:
                similarity[len(gram) - 1] += min(weight, other[gram]) * other[gram]
        norms = own_norm * other_norm
        similarity = np.divide(similarity, norms, out=np.zeros(ORDERS), where=norms > 0)
        difference = len(tokens) - len(meant[row])
        result[row] = CIDER_COPY * similarity.mean() * math.exp(-(difference**2) / (2 * _CIDER_SIGMA**2))
    return result


def _ngrams(tokens: Sequence[str]) -> Counter[tuple[str, ...]]:
    """All n-grams of order 1 to 4, counted."""
    return Counter(
        tuple(tokens[start : start + order])
        for order in range(1, ORDERS + 1)
        for start in range(len(tokens) - order + 1)
    )


def _weighted(
    grams: Counter[tuple[str, ...]], documents: Counter[tuple[str, ...]], largest: float
) -> tuple[dict[tuple[str, ...], float], np.ndarray]:
    """Weights of n-grams, and their norm by order [4]."""
    weights = {gram: count * (largest - math.log(max(1, documents[gram]))) for gram, count in grams.items()}
    squares = np.zeros(ORDERS)
    for gram, weight in weights.items():
        squares[len(gram) - 1] += weight**2
    return weights, np.sqrt(squares)
