"""The numbers of a text evaluation: every metric with its n and interval, and paired differences between systems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from experiments.pretraining.evaluation.attribute_results import (
    attribute_names,
    attribute_statistic,
    defined_mean,
    tested_groups,
)
from experiments.pretraining.evaluation.masked_tokens import HITS, LOSS, ratio
from experiments.pretraining.evaluation.paraphrases import ParaphraseQuestion, SystemAnswers, kinds_of
from experiments.statistics.bootstrap import Statistic, bootstrap, mean_of, percentile_difference
from experiments.statistics.embeddings import alignment, uniformity, wins, wins_over_all
from experiments.statistics.support import mean_support

RETRIEVAL, ALIGNMENT, UNIFORMITY = "retrieval", "alignment", "uniformity"
ATTRIBUTES, MASKED = "attribute AUC", "masked tokens"
EVERY, MEAN = "every fact", "mean of attributes"
VALUES = ["metric", "kind", "group", "system", "kidneys", "patients", "value", "low", "high", "interval"]
DIFFERENCES = ["metric", "kind", "group", "system", "against", "kidneys", "patients", "difference", "low", "high"]
DIFFERENCES += ["interval", "p"]


@dataclass(frozen=True)
class GroupMetric:
    """One metric of one group of patients, for every system.

    Args:
        metric: `retrieval` (share of questions whose paraphrase is nearer than the texts with a changed fact),
            `alignment`, `uniformity` (both lower is better), `attribute AUC`, `masked tokens`.
        kind: Kind of fact or attribute.
        group: Group of patients.
        kidneys: Kidneys that it rests on.
        patients: Patients, the unit of resampling.
        statistics: By system.
    """

    metric: str
    kind: str
    group: str
    kidneys: int
    patients: int
    statistics: Mapping[str, Statistic]


def question_measures(
    questions: Sequence[ParaphraseQuestion], answers: Mapping[str, SystemAnswers]
) -> Iterator[GroupMetric]:
    """Retrieval by kind of fact and over every fact, alignment and uniformity.

    Args:
        questions: The questions.
        answers: By system, of the same questions.
    """
    rows = pd.DataFrame({"patient_id": [q.patient_id for q in questions], "role": [q.role for q in questions]})
    for group, part in tested_groups(rows.assign(number=range(len(rows)))):
        owner, names = pd.factorize(part["patient_id"])
        chosen, owners = part["number"].to_numpy(), dict(zip(part["number"], owner, strict=True))
        yield GroupMetric(
            RETRIEVAL, EVERY, group, len(chosen), len(names),
            {system: mean_of(_all_won(found)[chosen], owner=owner) for system, found in answers.items()},
        )  # fmt: skip
        for kind in kinds_of([questions[number] for number in chosen]):
            first = next(iter(answers.values()))
            used = np.flatnonzero((first.kind == kind) & np.isin(first.question, chosen))
            theirs, patients = pd.factorize(np.array([owners[number] for number in first.question[used]]))
            yield GroupMetric(
                RETRIEVAL, kind, group, len(used), len(patients),
                {system: mean_of(_won(found)[used], owner=theirs) for system, found in answers.items()},
            )  # fmt: skip
        pairs = {system: (found.query[chosen], found.paraphrase[chosen]) for system, found in answers.items()}
        yield GroupMetric(
            ALIGNMENT, "query and paraphrase", group, len(chosen), len(names),
            {system: alignment(*pair, owner) for system, pair in pairs.items()},
        )  # fmt: skip
        yield GroupMetric(
            UNIFORMITY, "queries", group, len(chosen), len(names),
            {system: uniformity(query, owner) for system, (query, _) in pairs.items()},
        )  # fmt: skip


def _won(found: SystemAnswers) -> np.ndarray:
    return wins(found.query[found.question], found.paraphrase[found.question], found.flips)


def _all_won(found: SystemAnswers) -> np.ndarray:
    return wins_over_all(_won(found), found.question, len(found.query))


def attribute_measures(frames: Mapping[str, pd.DataFrame]) -> Iterator[GroupMetric]:
    """The AUC of every attribute and their mean.

    Args:
        frames: By system, as `callbacks.predictions.attribute_frame`, of the same kidneys in the same order.
    """
    by_group: dict[str, dict[str, pd.DataFrame]] = {}
    for system, frame in frames.items():
        for group, part in tested_groups(frame):
            by_group.setdefault(group, {})[system] = part.reset_index(drop=True)
    for group, parts in by_group.items():
        first = next(iter(parts.values()))
        owner, names = pd.factorize(first["patient_id"])
        each: dict[str, list[Statistic]] = {system: [] for system in parts}
        for attribute in attribute_names(first):
            found = {system: attribute_statistic(part, attribute, owner) for system, part in parts.items()}
            scored = {system: entry for system, entry in found.items() if entry is not None}
            if len(scored) != len(parts):
                continue
            kidneys = next(iter(scored.values()))[1]
            statistics = {system: _kept(entry[0]) for system, entry in scored.items()}
            for system, statistic in statistics.items():
                each[system].append(statistic)
            yield GroupMetric(ATTRIBUTES, attribute, group, kidneys, len(names), statistics)
        if any(each.values()):
            means = {system: _mean(statistics) for system, statistics in each.items()}
            yield GroupMetric(ATTRIBUTES, MEAN, group, len(first), len(names), means)


def masked_measures(kidneys: pd.DataFrame, rows: Mapping[str, np.ndarray]) -> Iterator[GroupMetric]:
    """Accuracy and loss of masked next-token prediction on the reports of the tested kidneys.

    Args:
        kidneys: The kidneys, with patient_id and role.
        rows: By system, as `experiments.pretraining.evaluation.masked_tokens.masked_rows`.
    """
    for group, part in tested_groups(kidneys.reset_index(drop=True).assign(number=range(len(kidneys)))):
        owner, names = pd.factorize(part["patient_id"])
        chosen = part["number"].to_numpy()
        for kind, column in (("accuracy", HITS), ("loss, nats a token", LOSS)):
            statistics = {system: ratio(found[chosen], column, owner) for system, found in rows.items()}
            yield GroupMetric(MASKED, kind, group, len(chosen), len(names), statistics)


def _kept(statistic: Statistic) -> Statistic:
    """The statistic with its last results kept: the mean of attributes asks for them again, for the same weights."""
    known: dict[tuple[tuple[int, ...], bytes], np.ndarray] = {}

    def value(weights: np.ndarray) -> np.ndarray:
        key = (weights.shape, weights[:2].tobytes())
        if key not in known:
            known[key] = statistic(weights)
        return known[key]

    return Statistic(value, statistic.support)


def _mean(statistics: Sequence[Statistic]) -> Statistic:
    def mean(weights: np.ndarray) -> np.ndarray:
        return defined_mean([statistic(weights) for statistic in statistics])

    return Statistic(mean, mean_support([statistic.support for statistic in statistics]))


def tabulate(
    measures: Sequence[GroupMetric], subject: str, replicates: int = 1000, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Values of every system, and the differences of one system to the others on the same patients.

    Args:
        measures: The measures.
        subject: The system that the others are compared with.
        replicates: Bootstrap replicates over patients.
        seed: Seed.

    Returns:
        The values (columns `VALUES`) and the differences, subject minus other (columns `DIFFERENCES`), with 95 %
        intervals and two-sided bootstrap p values.
    """
    values, differences = [], []
    for measure in measures:
        row: dict[str, object] = {"metric": measure.metric, "kind": measure.kind, "group": measure.group}
        row |= {"kidneys": measure.kidneys, "patients": measure.patients}
        found = {
            system: bootstrap(statistic, measure.patients, replicates, seed)
            for system, statistic in measure.statistics.items()
        }
        for system, (estimate, drawn) in found.items():
            ends = {"low": estimate.low, "high": estimate.high, "interval": estimate.interval}
            values.append(row | {"system": system, "value": estimate.value} | ends)
            if system != subject and subject in found:
                ours, theirs = found[subject]
                against = measure.statistics[subject].support.minus(measure.statistics[system].support)
                gain, p = percentile_difference(ours.value - estimate.value, theirs - drawn, against)
                entry = {"system": subject, "against": system, "difference": gain.value}
                ends = {"low": gain.low, "high": gain.high, "interval": gain.interval}
                differences.append(row | entry | ends | {"p": p})
    return pd.DataFrame(values, columns=VALUES), pd.DataFrame(differences, columns=DIFFERENCES)
