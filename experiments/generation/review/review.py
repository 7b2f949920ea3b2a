"""What a review consists of: its cases, who has rated what, and what a reviewer is shown of a case."""

from __future__ import annotations

import csv
import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

from datamodules.errors import DataError
from datamodules.files import read_json_mapping, replacing, write_json
from datamodules.reports.reader.rules import RuleExtractor
from experiments.generation.facts import VERDICTS, ComparedFact, Remembering, fact_lists
from experiments.generation.review.cases import Case, case_order, cases_hash, lettered
from experiments.generation.review.marks import Piece, pieces, reference_spans, report_spans, value_of
from experiments.generation.review.ratings import Rating, Ratings

RATINGS, KEY, SETTINGS = "ratings.csv", "key.csv", "settings.json"


@dataclass(frozen=True)
class Card:
    """A generated report as a reviewer sees it; nothing here tells its system.

    Args:
        letter: What it is called.
        pieces: Its text with the facts that it states.
        facts: Its facts in words, by verdict.
        rating: What this reviewer said of it; None where nothing yet.
    """

    letter: str
    pieces: list[Piece]
    facts: dict[str, list[str]]
    rating: Rating | None


@dataclass(frozen=True)
class Shown:
    """A case as a reviewer sees it.

    Args:
        case: The kidney.
        reference: The reference report, with the words that some report leaves out.
        cards: The generated reports by letter.
    """

    case: Case
    reference: list[Piece]
    cards: list[Card]


@dataclass
class Review:
    """The cases of a review with its ratings; safe to use from several threads.

    Args:
        cases: The kidneys, sorted by their key.
        seed: Seed of every order.
        folder: Where ratings, key and settings lie.
        note: What must be said beside every case of the cohort.

    Raises:
        DataError: if the folder holds ratings of other reports.
    """

    cases: Sequence[Case]
    seed: int
    folder: Path
    note: str
    ratings: Ratings = field(init=False)

    def __post_init__(self) -> None:
        if not self.cases:
            raise DataError("No kidney with a reference and a report by every system was found; generate them first.")
        self._lock = threading.Lock()
        self._extractor = RuleExtractor()
        self._reader = Remembering(self._extractor)
        self.order = lru_cache(maxsize=64)(self._order)
        self.letters = lru_cache(maxsize=1 << 14)(self._letters)
        self.ratings = Ratings(self.folder / RATINGS)
        self._check_settings()

    @property
    def systems(self) -> list[str]:
        """The systems that are rated."""
        return list(self.cases[0].reports)

    @cached_property
    def identity(self) -> str:
        """Hash of what is rated and in which order; it tells reviews apart and nothing of their systems."""
        return hashlib.sha256(f"{cases_hash(self.cases)} {self.seed}".encode()).hexdigest()[:12]

    def _check_settings(self) -> None:
        """Record what is rated, or refuse to mix it with ratings of something else."""
        settings = {
            "systems": sorted(self.systems),
            "kidneys": len(self.cases),
            "seed": self.seed,
            "reports": cases_hash(self.cases),
        }
        path = self.folder / SETTINGS
        found = read_json_mapping(path) if path.is_file() else settings
        if found != settings and len(self.ratings):
            differing = ", ".join(name for name, value in settings.items() if found.get(name) != value)
            raise DataError(
                f"{self.folder.name} holds {len(self.ratings)} ratings of other reports ({differing}); ask for what "
                "was rated there, or name another folder with --out."
            )
        write_json(path, settings)

    def _order(self, reviewer: str) -> list[Case]:
        return case_order(self.cases, self.seed, reviewer)

    def _letters(self, reviewer: str, number: int) -> dict[str, str]:
        return lettered(self.case(reviewer, number), self.seed, reviewer)

    def begin(self, reviewer: str) -> None:
        """Write who reads which system under which letter, for every reviewer so far: the key to the ratings."""
        path = self.folder / KEY
        with self._lock:
            known: list[list[str]] = []
            if path.is_file():
                with path.open(encoding="utf-8", newline="") as handle:
                    known = list(csv.reader(handle))[1:]
            rows = [row for row in known if row[0] != reviewer]
            for number, case in enumerate(self.order(reviewer), start=1):
                letters = self.letters(reviewer, number)
                rows += [[reviewer, str(number), *case.key, letter, system] for letter, system in letters.items()]
            with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as handle:
                writer = csv.writer(handle, lineterminator="\n")
                writer.writerow(["reviewer", "case", "patient_id", "study_id", "side", "letter", "system"])
                writer.writerows(rows)

    def case(self, reviewer: str, number: int) -> Case:
        """The case at a place of a reviewer's order, from 1.

        Raises:
            DataError: if there is none.
        """
        order = self.order(reviewer)
        if not 1 <= number <= len(order):
            raise DataError(f"Case {number} is not known; there are 1 to {len(order)}.")
        return order[number - 1]

    def rating(self, reviewer: str, number: int, letter: str) -> Rating:
        """The rating of a report as it stands, or an empty one.

        Raises:
            DataError: if the case or the letter is not known.
        """
        case = self.case(reviewer, number)
        letters = self.letters(reviewer, number)
        if letter not in letters:
            raise DataError(f"Report {letter!r} is not known; this case has {', '.join(letters)}.")
        empty = Rating(reviewer, *case.key, letters[letter], letter, list(letters).index(letter) + 1, number)
        return self.ratings.get(empty.key) or empty

    def finished(self, reviewer: str, number: int) -> bool:
        """Whether every report of a case is rated."""
        return all(self.rating(reviewer, number, letter).complete for letter in self.letters(reviewer, number))

    def progress(self, reviewer: str) -> list[bool]:
        """Which cases are finished, in the reviewer's order."""
        return [self.finished(reviewer, number) for number in range(1, len(self.cases) + 1)]

    def first_open(self, reviewer: str, after: int = 0) -> int | None:
        """The next case that is not finished, from the one behind `after` round to it; None when all are."""
        done = self.progress(reviewer)
        places = [(after + step) % len(done) for step in range(len(done))]
        return next((place + 1 for place in places if not done[place]), None)

    def shown(self, reviewer: str, number: int) -> Shown:
        """A case with its facts and what the reviewer said of it.

        Raises:
            DataError: if there is no such case.
        """
        case = self.case(reviewer, number)
        letters = self.letters(reviewer, number)
        facts = dict(zip(letters, self._facts(case, list(letters.values())), strict=True))
        cards = []
        for letter, system in letters.items():
            own, text = facts[letter], case.reports[system]
            rating = self.rating(reviewer, number, letter)
            cards.append(
                Card(
                    letter,
                    pieces(text, report_spans(text, case.side, own)),
                    {name: [value_of(fact) for fact in own if fact.verdict == name] for name in VERDICTS},
                    rating if rating.rated else None,
                )
            )
        return Shown(case, pieces(case.reference, reference_spans(case.reference, case.side, facts)), cards)

    def _facts(self, case: Case, systems: Sequence[str]) -> list[list[ComparedFact]]:
        count = len(systems)
        texts = [case.reports[system] for system in systems]
        with self._lock:
            return fact_lists(
                texts, [case.reference] * count, [case.side] * count, self._reader, self._extractor.schema
            )
