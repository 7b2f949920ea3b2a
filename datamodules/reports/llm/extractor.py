"""Reading attributes out of reports with a language model that can only give valid answers."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from datamodules.cohort.columns import SIDES
from datamodules.errors import DataError
from datamodules.reports.attribute_table import NOT_STATED
from datamodules.reports.llm.answers import StatementCache
from datamodules.reports.llm.constrained import Choice, Node, PrefixCache, answer
from datamodules.reports.llm.models import LanguageModel
from datamodules.reports.llm.prompt import PROMPT_VERSION, ExtractionPrompt
from datamodules.reports.reader.clauses import read_report
from datamodules.reports.reader.statements import Statement
from datamodules.reports.schema import Attribute, AttributeSchema, load_schema

PRESENCE = "lesion_present"
_LONGEST_ANSWER = 64
_HEDGES = re.compile(
    r"\b(possibl[ey]|probabl[ey]|presumabl[ey]|questionable|suspected|suspicious|suggest\w*|likely|may|might|could"
    r"|not excluded|cannot be (?:excluded|ruled out)|equivocal|indeterminate)\b",
    re.IGNORECASE,
)


class LlmExtractor:
    """Asks a causal language model for every attribute of both kidneys, one question at a time.

    The model chooses among the classes of the schema and "not stated", then among the numbers of the sentences, by
    constrained decoding: whatever the model, its answer is valid and its evidence a sentence of the report. Questions
    about a lesion are not asked of a kidney that, by the model's own answer, has none. The confidence is the
    probability of the value among the allowed ones, not calibrated. Decoding is greedy; reports are read one by one
    and questions side by side, so that an answer depends on its report alone. In float32 it does not depend on
    `batch_size` and `share` either; in bfloat16 near ties may fall otherwise under another `batch_size`.

    Args:
        model: The language model.
        schema: What to ask; the suite's own by default.
        cache: Folder of answers, which makes a run resumable and a rerun free; none by default.
        batch_size: Questions side by side.
        share: Whether what several questions have in common is read once, through the keys and values of the model;
            without it every question reads the report anew, for models whose cache cannot be repeated.
    """

    name = "llm"

    def __init__(
        self,
        model: LanguageModel,
        schema: AttributeSchema | None = None,
        cache: Path | None = None,
        batch_size: int = 8,
        share: bool = True,
    ) -> None:
        self.model, self.schema = model, schema or load_schema()
        self.batch_size, self.share = batch_size, share
        self.prompt = ExtractionPrompt(model.tokenizer)
        self.questions = {entry.name: self.prompt.question(entry) for entry in self.schema.attributes}
        self.values = {entry.name: self.prompt.values(entry) for entry in self.schema.attributes}
        self.tails = {side: self.prompt.kidney(side) for side in SIDES}
        self.answers = None if cache is None else StatementCache(cache, self.fingerprint, self.schema.classes)
        self.reports_read = 0

    @property
    def fingerprint(self) -> str:
        """Hash of questions, prompt, weights and precision; decoding is greedy and has no other setting.

        The rules' patterns are no part of it: a model never sees them.
        """
        asked = [[entry.name, entry.level, self.questions[entry.name]] for entry in self.schema.attributes]
        content = json.dumps([asked, PROMPT_VERSION, self.model.fingerprint, "greedy"])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def check(self, reports: Sequence[str]) -> None:
        """Refuse reports that are too long for the model, before any time is spent.

        Raises:
            DataError: naming the length of the longest and what the model can read.
        """
        most = max(len(tokens) for tokens in self.questions.values()) + max(map(len, self.tails.values()))
        lengths = [len(self.prompt.report([shown for shown, *_ in numbered(report)])) for report in reports]
        needed = max(lengths, default=0) + most + _LONGEST_ANSWER
        if lengths and needed > self.model.context:
            raise DataError(
                f"The longest report takes {needed} tokens with its question, and {self.model.name} reads "
                f"{self.model.context} at most; name a MODEL with a longer context."
            )

    def extract(self, reports: Sequence[str]) -> list[list[Statement]]:
        """The statements of every report, in their order; as `Extractor`.

        Raises:
            DataError: if a report is too long for the model.
        """
        known = [self._known(report) for report in reports]
        self.check([report for report, found in zip(reports, known, strict=True) if found is None])
        return [self._read(report) if found is None else found for report, found in zip(reports, known, strict=True)]

    def _known(self, report: str) -> list[Statement] | None:
        sentences = numbered(report)
        if not sentences:
            return []
        return None if self.answers is None else self.answers.load(report, sentences)

    def _read(self, report: str) -> list[Statement]:
        sentences = numbered(report)
        statements = list(self._statements(report, sentences))
        order = {name: position for position, name in enumerate(self.schema.names)}
        statements.sort(key=lambda entry: (entry.side, order[entry.attribute]))
        self.reports_read += 1
        if self.answers is not None:
            self.answers.store(report, sentences, statements)
        return statements

    def _statements(self, report: str, sentences: Sequence[tuple[str, int, int]]) -> Iterator[Statement]:
        asking = _Questions(self, self.prompt.report([shown for shown, *_ in sentences]), len(sentences))
        without_lesion = set()
        for level in ("kidney", "lesion"):
            attributes = [entry for entry in self.schema.attributes if entry.level == level]
            sides = [side for side in SIDES if side not in without_lesion]
            for side, attribute, (value, *evidence) in asking.ask(attributes, sides):
                if (attribute.name, value.answer) == (PRESENCE, "no"):
                    without_lesion.add(side)
                if evidence:
                    _, start, end = sentences[int(evidence[0].answer) - 1]
                    words = report[start:end]
                    confidence, hedged = value.probability, is_hedged(words)
                    yield Statement(side, attribute.name, value.answer, start, end, words, confidence, hedged)


class _Questions:
    """Questions about one report, which is read once for all of them."""

    def __init__(self, extractor: LlmExtractor, start: list[int], sentence_count: int) -> None:
        self.extractor, self.start = extractor, start
        self.numbers = extractor.prompt.numbers(sentence_count)
        self.context = PrefixCache(extractor.model.model)
        if extractor.share:
            self.context.read([start])

    def ask(
        self, attributes: Sequence[Attribute], sides: Sequence[str]
    ) -> Iterator[tuple[str, Attribute, list[Choice]]]:
        """Every attribute of every side with the model's choices: the value and, if it is stated, the sentence."""
        # Questions of about one length side by side leave little to fill.
        ordered = sorted(attributes, key=lambda entry: len(self.extractor.questions[entry.name]))
        for first in range(0, len(ordered), self.extractor.batch_size):
            batch = ordered[first : first + self.extractor.batch_size]
            for side, choices in self._batch(batch, sides):
                yield from ((side, attribute, chosen) for attribute, chosen in zip(batch, choices, strict=True))

    def _batch(self, batch: Sequence[Attribute], sides: Sequence[str]) -> Iterator[tuple[str, list[list[Choice]]]]:
        questions = [self.extractor.questions[entry.name] for entry in batch]
        tries = [self.extractor.values[entry.name] for entry in batch]
        if self.extractor.share and sides:
            asked = self.context.fork(len(batch))
            asked.read(questions)
        for side in sides:
            tail = self.extractor.tails[side]
            if self.extractor.share:
                context, tails = asked.fork(), [tail] * len(batch)
            else:
                context = PrefixCache(self.extractor.model.model, len(batch))
                tails = [[*self.start, *question, *tail] for question in questions]
            yield side, answer(context, tails, tries, self._evidence)

    def _evidence(self, value: str) -> Node | None:
        return None if value == NOT_STATED else self.numbers


def numbered(report: str) -> list[tuple[str, int, int]]:
    """The sentences of a report, as shown to a model and with their offsets.

    A heading is shown with the sentence that follows it, because it may name the side, but is not quoted.
    """
    read, shown_to = read_report(report), 0
    found = []
    for start, end in read.sentences:
        begin, stop = read.span(start, end)
        found.append((" ".join(report[shown_to:stop].split()), begin, stop))
        shown_to = stop
    return found


def is_hedged(text: str) -> bool:
    """Whether a sentence words its finding as uncertain; a change raises PROMPT_VERSION."""
    return _HEDGES.search(text) is not None
