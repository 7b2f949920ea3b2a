"""Sentences of training reports by the facts that they state, and reports put together from them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from datamodules.cohort.columns import SIDES
from datamodules.reports.reader.measurements import diameters
from datamodules.reports.reader.organs import side_mentions
from datamodules.reports.reader.sections import sentences
from datamodules.reports.reader.statements import Extractor
from datamodules.reports.schema import AttributeSchema
from experiments.generation.facts import named_side
from experiments.generation.template import PRESENCE, spoken, worded

SHARED_BY = 3
"""Patients whose reports must have a sentence before another patient's may: what fewer say may be of one person."""
_SIDE, _SIZE = "{side}", "{size}"
_SIZES_MM = (25.0, 55.0, 85.0)
"""One of every class of size, as which a sentence with a diameter is read."""
Facts = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class SentenceBank:
    """Sentences by the facts that they state, the side and the diameter of a lesion left open.

    Args:
        sentences: By facts, the sentences that enough patients share with the number of patients, commonest first.
        extractor: Reads statements; what it does not read back is not said.
        schema: Attributes.
    """

    sentences: Mapping[Facts, list[tuple[str, int]]]
    extractor: Extractor
    schema: AttributeSchema

    def report(self, facts: Mapping[str, str], side: str, diameter_mm: float) -> str:
        """A report that states these facts and no others, each in one sentence.

        A sentence is taken only where all that it states is still to be said; of those that state the next fact, one
        with most facts, and of these the commonest. Facts without one, and those that are not read back from the
        whole, are said by the template.

        Args:
            facts: Value by attribute; of a kidney without a lesion none of a lesion.
            side: left or right.
            diameter_mm: Largest diameter of the lesion, for sentences that give one.
        """
        chosen: list[tuple[dict[str, str], str]] = []
        left = {name: facts[name] for name in spoken(facts, self.schema)}
        while left:
            name = next(iter(left))
            found = self._best(name, left, facts)
            own = {name: left[name]} if found is None else dict(found[0])
            text = worded(own, side, self.schema) if found is None else _filled(found[1], side, diameter_mm)
            chosen.append((own, text))
            left = {key: value for key, value in left.items() if key not in own}
        return self._checked(chosen, facts, side)

    def _best(self, name: str, left: Mapping[str, str], facts: Mapping[str, str]) -> tuple[Facts, str] | None:
        """The facts and the sentence that say a fact and nothing but what is left to say.

        That there is a lesion is implied by whatever is said of it; said itself, it is said with its side.
        """
        items = frozenset(left.items()) | {(PRESENCE, facts.get(PRESENCE, ""))}
        fitting = [
            (len(own & set(left.items())), count, sorted(own), own, text)
            for own, found in self.sentences.items()
            if (name, left[name]) in own and own <= items
            for text, count in found
            if name != PRESENCE or _SIDE in text
        ]
        if not fitting:
            return None
        *_, own, text = max(fitting, key=lambda entry: (*entry[:3], entry[4]))
        return own, text

    def _checked(self, chosen: Sequence[tuple[dict[str, str], str]], facts: Mapping[str, str], side: str) -> str:
        """The report, in the template's words wherever the whole is not read as it was meant."""
        text = " ".join(sentence for _, sentence in chosen)
        found = self._states(text, side)
        wrong = {name for name in {*facts, *found} if facts.get(name) != found.get(name)}
        if not wrong:
            return text
        said: set[str] = set()
        parts = []
        for own, sentence in chosen:
            plain = {name: value for name, value in own.items() if name not in said}
            parts.append(worded(plain, side, self.schema) if wrong & set(plain) else sentence)
            said |= set(own)
        text = " ".join(parts)
        return text if self._states(text, side) == dict(facts) else worded(facts, side, self.schema)

    def _states(self, text: str, side: str) -> dict[str, str]:
        found = self.extractor.extract([named_side(text, side)])[0]
        return {entry.attribute: entry.value for entry in found if entry.side == side}


def sentence_bank(
    texts: Sequence[str], sides: Sequence[str], patients: Sequence[str], extractor: Extractor, schema: AttributeSchema
) -> SentenceBank:
    """The sentences of reports of one kidney each that at least `SHARED_BY` patients have.

    Args:
        texts: Reports.
        sides: left or right, the kidney of each.
        patients: Whose it is.
        extractor: Reads statements.
        schema: Attributes.
    """
    whose: dict[str, set[str]] = defaultdict(set)
    for text, side, patient in zip(texts, sides, patients, strict=True):
        for start, end in sentences(text, 0, len(text)):
            sentence = text[start:end].strip()
            if {name for _, _, name in side_mentions(sentence)} <= {side}:
                whose[_opened(sentence, side)].add(patient)
    shared = [
        (opened, size, _filled(opened, SIDES[0], size))
        for opened, owners in whose.items()
        if len(owners) >= SHARED_BY
        for size in (_SIZES_MM if _SIZE in opened else _SIZES_MM[:1])
    ]
    found: dict[Facts, list[tuple[str, int]]] = defaultdict(list)
    for (opened, _, _), own in zip(shared, _facts_of([text for _, _, text in shared], extractor, schema), strict=True):
        if own:
            found[own].append((opened, len(whose[opened])))
    ordered = {own: sorted(entries, key=lambda entry: (-entry[1], entry[0])) for own, entries in found.items()}
    return SentenceBank(ordered, extractor, schema)


def _facts_of(texts: Sequence[str], extractor: Extractor, schema: AttributeSchema) -> list[Facts]:
    """What sentences of the left kidney state, read alone and behind one that says that there is a lesion.

    "No calcification." says something where a lesion was named, and nothing by itself.
    """
    alone = extractor.extract([named_side(text, SIDES[0]) for text in texts])
    lesion = worded({PRESENCE: "yes"}, SIDES[0], schema)
    behind = extractor.extract([f"{lesion} {text}" for text in texts])
    return [
        frozenset((entry.attribute, entry.value) for entry in (own or within) if entry.side == SIDES[0])
        if all(entry.side == SIDES[0] for entry in (*own, *within)) and (own or len(within) > 1)
        else frozenset()
        for own, within in zip(alone, behind, strict=True)
    ]


def _opened(sentence: str, side: str) -> str:
    """A sentence with its side and the diameters of a lesion left open."""
    plain = sentence.replace("{", "(").replace("}", ")")
    for entry in sorted(diameters(plain), key=lambda entry: -entry.start):
        if not entry.vague:
            plain = f"{plain[: entry.start]}{_SIZE}{plain[entry.end :]}"
    return re.sub(rf"\b{side}\b", _SIDE, plain, flags=re.IGNORECASE)


def _filled(sentence: str, side: str, diameter_mm: float) -> str:
    text = sentence.replace(_SIZE, f"{diameter_mm / 10:.1f} cm").replace(_SIDE, side)
    return text[0].upper() + text[1:]
