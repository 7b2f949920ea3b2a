"""Retrieval of a paraphrase against texts that differ from it in one fact: the questions, and who answers them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from datamodules.files import read_parquet
from datamodules.phantoms.centers import center_of
from datamodules.phantoms.paraphrases import ENHANCEMENT, FLIPS, SIDE, SIZE, Bank, flipped, kidney_facts, write_kidney
from datamodules.reports.reader.matching import PRESENCE
from datamodules.reports.reader.rules import RuleExtractor
from datamodules.reports.rewriting.flips import text_flips
from datamodules.reports.sides import KIDNEY, shuffle_sentences

ALWAYS = (SIDE, SIZE)
"""Facts that are turned round wherever they are stated; of the others as many as asked for, drawn at random."""
WORDINGS = ("other", "same", "shuffled")


@dataclass(frozen=True)
class ParaphraseQuestion:
    """A report's text on one kidney, a paraphrase, and texts with one fact turned round.

    Args:
        patient_id: Patient.
        role: Role of the patient's centre.
        query: The text of the report.
        paraphrase: The same facts in other words or another order.
        flips: Kind of fact and text; the words are those of the paraphrase but for that fact.
    """

    patient_id: str
    role: str
    query: str
    paraphrase: str
    flips: tuple[tuple[str, str], ...]

    @property
    def texts(self) -> list[str]:
        """Every text of it."""
        return [self.query, self.paraphrase, *(text for _, text in self.flips)]


def make_questions(
    cohort: Cohort, kidneys: pd.DataFrame, wording: str = "other", flips: int = 5, seed: int = 0
) -> list[ParaphraseQuestion]:
    """Questions about the kidneys with a lesion.

    Args:
        cohort: The cohort.
        kidneys: Rows with patient_id, study_id, side, role and text.
        wording: How a paraphrase is worded. `other`: the facts in the words of a bank that the centre does not use,
            `same`: in other words of its own bank; both need a generated cohort. `shuffled`: the report's own sentences
            in another order, flipped by rules, for any cohort. Bags of words are then equal by construction, and
            a bag-of-words model is right unless the fact is out of its vocabulary.
        flips: Most facts turned round a kidney.
        seed: Seed of words, order and choice of facts.

    Raises:
        DataError: if the cohort is not generated and `wording` needs one, or no kidney has a fact to turn round.
    """
    if wording not in WORDINGS:
        raise DataError(f"WORDING={wording} was found; choose one of {', '.join(WORDINGS)}.")
    made = (
        _shuffled(kidneys, flips, seed) if wording == "shuffled" else _of_facts(cohort, kidneys, wording, flips, seed)
    )
    questions = [question for question in made if question.flips]
    if not questions:
        raise DataError(
            f"No report of the {len(kidneys)} held-out kidneys of cohort {cohort.info.name} states a fact that could "
            "be turned round; choose a cohort whose reports describe lesions."
        )
    return questions


def _of_facts(
    cohort: Cohort, kidneys: pd.DataFrame, wording: str, flips: int, seed: int
) -> Iterator[ParaphraseQuestion]:
    path = cohort.root / "truth.parquet"
    if not path.is_file():
        raise DataError(
            f"WORDING={wording} needs the facts of a generated cohort, and {cohort.info.name} has no truth.parquet; "
            "choose WORDING=shuffled."
        )
    truth = read_parquet(path)[0].set_index(KIDNEY)
    for row in kidneys.to_dict("records"):
        facts_row = {**truth.loc[tuple(row[name] for name in KIDNEY)].to_dict(), **{name: row[name] for name in KIDNEY}}
        if facts_row["lesion_present"] != "yes":
            continue
        own, number = center_of(row["patient_id"]).bank, _number(row, seed)
        bank: Bank = own if wording == "same" else ("heldout" if own == "development" else "development")
        facts = kidney_facts(facts_row)
        changed = [(kind, write_kidney(other, bank, number)) for kind, other in flipped(facts)]
        chosen = _chosen(changed, flips, number)
        yield ParaphraseQuestion(row["patient_id"], row["role"], row["text"], write_kidney(facts, bank, number), chosen)


def _shuffled(kidneys: pd.DataFrame, flips: int, seed: int) -> Iterator[ParaphraseQuestion]:
    reader = RuleExtractor()
    rows = kidneys.to_dict("records")
    for row, stated in zip(rows, reader.extract([row["text"] for row in rows]), strict=True):
        if not any((s.side, s.attribute, s.value) == (row["side"], PRESENCE, "yes") for s in stated):
            continue
        number = _number(row, seed)
        changed = [(flip.kind, shuffle_sentences(flip.text, number)) for flip in text_flips(row["text"], reader)]
        paraphrase = shuffle_sentences(row["text"], number)
        if paraphrase == row["text"]:
            continue  # one sentence has no other order
        yield ParaphraseQuestion(
            row["patient_id"], row["role"], row["text"], paraphrase, _chosen(changed, flips, number)
        )


def _number(row: dict[object, str], seed: int) -> int:
    return zlib.crc32(f"{seed}/{row['patient_id']}/{row['study_id']}/{row['side']}".encode())


def _chosen(changed: Sequence[tuple[str, str]], count: int, number: int) -> tuple[tuple[str, str], ...]:
    always = [entry for entry in changed if entry[0] in ALWAYS][:count]
    others = [entry for entry in changed if entry[0] not in ALWAYS]
    order = np.random.default_rng(number).permutation(len(others))
    return (*always, *(others[place] for place in order[: count - len(always)]))


@dataclass(frozen=True)
class SystemAnswers:
    """One system's answers.

    Args:
        query: float [Q, D], embeddings of the queries.
        paraphrase: float [Q, D].
        flips: float [C, D], of all candidates with a changed fact.
        question: int [C], number of each candidate's question.
        kind: Kind of fact of each candidate.
    """

    query: np.ndarray
    paraphrase: np.ndarray
    flips: np.ndarray
    question: np.ndarray
    kind: np.ndarray


def answer(questions: Sequence[ParaphraseQuestion], embed: Callable[[Sequence[str]], np.ndarray]) -> SystemAnswers:
    """Embed every text of the questions."""
    vectors = embed([text for question in questions for text in question.texts])
    starts = np.cumsum([0, *(len(question.texts) for question in questions)])[:-1]
    numbers = [row for row, question in enumerate(questions) for _ in question.flips]
    places = [start + 2 + n for start, q in zip(starts, questions, strict=True) for n in range(len(q.flips))]
    kinds = [kind for question in questions for kind, _ in question.flips]
    return SystemAnswers(vectors[starts], vectors[starts + 1], vectors[places], np.array(numbers), np.array(kinds))


def kinds_of(questions: Sequence[ParaphraseQuestion]) -> list[str]:
    """Kinds of facts that are turned round, those of the phantoms in their order, then others."""
    found = {kind for question in questions for kind, _ in question.flips}
    known = [kind for kind in (*ALWAYS, ENHANCEMENT, *FLIPS) if kind in found]
    return [*known, *sorted(found - set(known))]
