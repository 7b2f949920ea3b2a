"""Scores of report-writing systems on words and on facts, with intervals over patients and paired differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from datamodules.errors import DataError
from datamodules.reports.reader.statements import Extractor
from datamodules.reports.schema import AttributeSchema
from datamodules.reports.sides import KIDNEY
from experiments.generation.facts import FactScores, Remembering, fact_scores
from experiments.generation.word_overlap import (
    CIDER_COPY,
    ORDERS,
    WordScores,
    bleu_support,
    corpus_bleu,
    word_scores,
    words,
)
from experiments.scores.results_table import groups
from experiments.statistics.bootstrap import Statistic, bootstrap, mean_of, paired_difference, ratio, weighted_means
from experiments.statistics.multiplicity import holm
from experiments.statistics.support import DiceSupport, Support, share_support

SIZE_TOLERANCE_MM = 10.0
"""Beyond this difference of the largest diameters a size counts as wrong."""
_REPEATED_WORDS, _REPEATED_TIMES = 4, 3


@dataclass(frozen=True)
class SystemMetric:
    """A number that a system is scored by.

    Args:
        title: What it is called in tables.
        better: `higher`, `lower`, or `neither` where it only describes.
        unit: Unit, empty for shares.
    """

    title: str
    better: str
    unit: str = ""


MEASURES: dict[str, SystemMetric] = {
    "fact_micro_f1": SystemMetric("facts, micro F1", "higher"),
    "fact_macro_f1": SystemMetric("facts, macro F1 over attributes", "higher"),
    "exact": SystemMetric("all facts agree", "higher"),
    "hallucination": SystemMetric("hallucinated, of facts stated", "lower"),
    "omission": SystemMetric("omitted, of facts to state", "lower"),
    "other_side": SystemMetric("speaks of the other kidney", "lower"),
    "size_error_mm": SystemMetric("error of the largest diameter", "lower", "mm"),
    "size_wrong": SystemMetric("diameter wrong by more than 10 mm", "lower"),
    "bleu_1": SystemMetric("BLEU-1", "higher"),
    "bleu_2": SystemMetric("BLEU-2", "higher"),
    "bleu_3": SystemMetric("BLEU-3", "higher"),
    "bleu_4": SystemMetric("BLEU-4", "higher"),
    "meteor": SystemMetric("METEOR", "higher"),
    "rouge_l": SystemMetric("ROUGE-L", "higher"),
    "cider": SystemMetric("CIDEr-D", "higher"),
    "words": SystemMetric("words", "neither", "words"),
    "unique": SystemMetric("reports that no other kidney has", "neither"),
    "empty": SystemMetric("empty", "lower"),
    "repeated": SystemMetric("repeats itself", "lower"),
    "truncated": SystemMetric("truncated", "lower"),
}
"""What every system is scored by; facts first, since word overlap rewards boilerplate."""


@dataclass(frozen=True)
class ScoredReports:
    """Reports of one system in one group, taken apart for scoring.

    Args:
        owner: int [N], number of each kidney's patient.
        patients: Number of patients.
        words: Word overlap.
        facts: Facts.
        texts: str [N], the generated reports.
        truncated: bool [N], or None where the system does not tell.
    """

    owner: np.ndarray
    patients: int
    words: WordScores
    facts: FactScores
    texts: np.ndarray
    truncated: np.ndarray | None

    def statistics(self) -> dict[str, Statistic]:
        """Every measure as a statistic of weighted patients; those that this system does not tell are left out."""
        share, f1 = share_support(self.patients), DiceSupport(0.0, 1.0, self.patients)
        sized = len(np.unique(self.owner[np.isfinite(self.facts.size_error_mm)]))
        supports = {"size_error_mm": Support(0.0, np.inf, sized), "size_wrong": share_support(sized)}
        supports |= {"fact_micro_f1": f1, "fact_macro_f1": f1}
        found = {
            name: Statistic(self._of_kidneys(value), supports.get(name, share)) for name, value in self._facts().items()
        }
        for order in range(1, ORDERS + 1):
            bleu = partial(corpus_bleu, self.words, order=order)
            found[f"bleu_{order}"] = Statistic(self._of_kidneys(bleu), bleu_support(self.words, order, self.patients))
        shares: dict[str, np.ndarray] = {
            "meteor": self.words.meteor,
            "rouge_l": self.words.rouge_l,
            "cider": self.words.cider,
            "words": self.words.lengths,
            "empty": self.words.lengths == 0,
            # Counted in the whole group: among those drawn again every report would have its own copies.
            "unique": ~pd.Series(self.texts).duplicated(keep=False).to_numpy(),
            "repeated": np.array([repeats_itself(text) for text in self.texts]),
        }
        if self.truncated is not None:
            shares["truncated"] = self.truncated
        greatest = {"cider": CIDER_COPY, "words": np.inf}
        found |= {
            name: mean_of(values.astype(float), 0.0, greatest.get(name, 1.0), self.owner)
            for name, values in shares.items()
        }
        return {name: found[name] for name in MEASURES if name in found}

    def _facts(self) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
        facts = self.facts
        right, wrong, invented, missed = (
            table.astype(np.float64) for table in (facts.right, facts.wrong, facts.invented, facts.missed)
        )
        # A wrong value is both: something false was said, and the truth was not.
        false, unsaid = wrong + invented, wrong + missed
        exact = (~(facts.wrong | facts.invented | facts.missed)).all(axis=1).astype(float)
        error = facts.size_error_mm
        known = np.isfinite(error)
        return {
            "fact_micro_f1": lambda w: _f1((w @ right).sum(1), (w @ false).sum(1), (w @ unsaid).sum(1)),
            "fact_macro_f1": lambda w: _macro(w @ right, w @ false, w @ unsaid),
            "exact": lambda w: weighted_means(exact, w),
            "hallucination": lambda w: _share((w @ false).sum(1), (w @ right).sum(1)),
            "omission": lambda w: _share((w @ missed).sum(1), (w @ (right + wrong)).sum(1)),
            "other_side": lambda w: weighted_means(facts.other_side.astype(float), w),
            "size_error_mm": lambda w: weighted_means(error[known], w[:, known]),
            "size_wrong": lambda w: weighted_means((error[known] > SIZE_TOLERANCE_MM).astype(float), w[:, known]),
        }

    def _of_kidneys(self, statistic: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        return lambda weights: statistic(np.take(weights, self.owner, axis=1).astype(np.float64))


def _f1(right: np.ndarray, false: np.ndarray, unsaid: np.ndarray) -> np.ndarray:
    return ratio(2 * right, 2 * right + false + unsaid)


def _macro(right: np.ndarray, false: np.ndarray, unsaid: np.ndarray) -> np.ndarray:
    """Mean over the attributes that the references state; one that is only invented counts against micro F1 alone."""
    f1 = _f1(right, false, unsaid)
    stated = right + unsaid > 0
    return ratio(np.where(stated, f1, 0.0).sum(axis=1), stated.sum(axis=1))


def _share(part: np.ndarray, rest: np.ndarray) -> np.ndarray:
    return ratio(part, part + rest)


def repeats_itself(text: str) -> bool:
    """Whether four words in a row come three times, the mark of a decoder that turns in a circle."""
    tokens = words(text)
    grams = Counter(
        tuple(tokens[start : start + _REPEATED_WORDS]) for start in range(len(tokens) - _REPEATED_WORDS + 1)
    )
    return max(grams.values(), default=0) >= _REPEATED_TIMES


def scored_groups(
    generated: pd.DataFrame, references: pd.DataFrame, extractor: Extractor, schema: AttributeSchema
) -> Iterator[tuple[str, dict[str, ScoredReports]]]:
    """Every group of centres with every system, on the kidneys that all systems wrote a report of.

    Args:
        generated: As `records.generated_table` gives it.
        references: patient_id, study_id, side and text of the real reports, as `side_reports` gives them.
        extractor: Reads facts out of both.
        schema: Attributes.

    Raises:
        DataError: if no kidney has a reference and a report by every system.
    """
    systems = list(dict.fromkeys(generated["system"]))
    joined = generated.merge(references[[*KIDNEY, "text"]], on=KIDNEY, suffixes=("", "_reference"))
    count = joined.groupby(KIDNEY)["system"].transform("nunique")
    joined = joined[count == len(systems)].sort_values(KIDNEY)
    if joined.empty:
        raise DataError(f"No kidney has a reference and a report by each of {', '.join(systems)}; generate them first.")
    reader = Remembering(extractor)
    for group in groups(joined.assign(part="test")):
        yield (
            group.name,
            {system: _scored(group.rows[group.rows["system"] == system], reader, schema) for system in systems},
        )


def _scored(rows: pd.DataFrame, extractor: Extractor, schema: AttributeSchema) -> ScoredReports:
    owner, names = pd.factorize(rows["patient_id"])
    texts, references = rows["text"].tolist(), rows["text_reference"].tolist()
    told = rows["truncated"].notna().all()
    return ScoredReports(
        owner,
        len(names),
        word_scores(texts, references),
        fact_scores(texts, references, rows["side"].tolist(), extractor, schema),
        np.array(texts, dtype=object),
        rows["truncated"].to_numpy(dtype=bool) if told else None,
    )


def scores_table(scored: Mapping[str, ScoredReports], replicates: int = 2000) -> pd.DataFrame:
    """Every measure of every system of a group.

    Returns:
        system, measure, value, low, high (95 % interval over patients), interval (its method, or why there is none), n
        (patients), kidneys.
    """
    rows = []
    for system, entry in scored.items():
        for name, statistic in entry.statistics().items():
            estimate, _ = bootstrap(statistic, entry.patients, replicates)
            rows.append(
                {"system": system, "measure": name, "value": estimate.value, "low": estimate.low}
                | {
                    "high": estimate.high,
                    "interval": estimate.interval,
                    "n": entry.patients,
                    "kidneys": len(entry.texts),
                }
            )
    return pd.DataFrame(rows)


def differences_table(scored: Mapping[str, ScoredReports], reference: str, replicates: int = 2000) -> pd.DataFrame:
    """Every system minus a reference system, patients paired; p values corrected over all systems and measures (Holm).

    Returns:
        system, reference, measure, difference, low, high, interval (its method, or why there is none), p, p_holm, n.

    Raises:
        DataError: if the reference wrote no reports.
    """
    if reference not in scored:
        raise DataError(f"System {reference!r} wrote no report here; choose one of {', '.join(scored)}.")
    base = scored[reference].statistics()
    rows = []
    for system, entry in scored.items():
        if system == reference:
            continue
        own = entry.statistics()
        for name in own:
            if name in base and MEASURES[name].better != "neither":
                found = paired_difference(own[name], base[name], entry.patients, replicates)
                rows.append(
                    {"system": system, "reference": reference, "measure": name, "difference": found.estimate.value}
                    | {"low": found.estimate.low, "high": found.estimate.high, "interval": found.estimate.interval}
                    | {"p": found.p, "n": entry.patients}
                )
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table["p"].to_numpy(dtype=float))) if len(table) else table


def attribute_table(scored: Mapping[str, ScoredReports]) -> pd.DataFrame:
    """Facts by attribute: how often each system states it right, wrong, where nothing is to state, or not at all.

    Returns:
        system, attribute, right, wrong, invented, missed, f1, n (patients), kidneys; attributes nobody states left out.
    """
    rows = []
    for system, entry in scored.items():
        facts = entry.facts
        for column, name in enumerate(facts.attributes):
            counts = {
                verdict: int(getattr(facts, verdict)[:, column].sum())
                for verdict in ("right", "wrong", "invented", "missed")
            }
            if not sum(counts.values()):
                continue
            total = 2 * counts["right"] + 2 * counts["wrong"] + counts["invented"] + counts["missed"]
            rows.append(
                {"system": system, "attribute": name, **counts, "f1": 2 * counts["right"] / total}
                | {"n": entry.patients, "kidneys": len(entry.texts)}
            )
    return pd.DataFrame(rows)
