"""The facts of a phantom's kidney in other words, and with one fact turned round: what a text encoder is tested on."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from datamodules.errors import DataError
from datamodules.phantoms.reporting import load_bank, placeholders, sentence_case
from datamodules.phantoms.stated_attributes import KIDNEY_ATTRIBUTES
from datamodules.reports.reader.organs import opposite

Bank = Literal["development", "heldout"]

_PRESENCE = (
    "hilar_contact",
    "washout",
    "macroscopic_fat",
    "calcification",
    "necrosis",
    "haemorrhage",
    "central_scar",
    "collecting_invasion",
    "sinus_invasion",
    "stones",
    "atrophy",
)
FLIPS: dict[str, dict[str, str]] = {
    "venous_thrombus": {"none": "renal_vein", "renal_vein": "none", "vena_cava": "none"},
    "composition": {"solid": "cystic", "cystic": "solid"},
    "exophytic": {"mostly": "endophytic", "endophytic": "mostly", "partly": "endophytic"},
    "margin": {"smooth": "irregular", "irregular": "smooth"},
    "homogeneity": {"homogeneous": "heterogeneous", "heterogeneous": "homogeneous"},
    "pole": {"upper": "lower", "lower": "upper"},
    "face": {"anterior": "posterior", "posterior": "anterior"},
    "density": {"hypodense": "hyperdense", "hyperdense": "hypodense"},
    "collecting_nearness": {"distant": "abutting", "abutting": "distant"},
    "perirenal": {"none": "invasion", "invasion": "none"},
    "adrenal": {"normal": "nodule", "nodule": "normal"},
    "lymph_nodes": {"none": "enlarged", "enlarged": "none"},
    "hydronephrosis": {"none": "marked", "mild": "none", "marked": "none"},
    "lesion_number": {"one": "several", "several": "one"},
    **{name: {"yes": "no", "no": "yes"} for name in _PRESENCE},
}
"""From an attribute's value to the opposite one; those without have none."""
SIDE, SIZE, ENHANCEMENT = "side", "size", "enhancement"
_ENHANCING = {"enhancement_degree": "avid", "enhancement_pattern": "homogeneous"}
_LARGE_MM, _SMALL_MM, _BETWEEN_MM = 80.0, 30.0, 55.0


@dataclass(frozen=True)
class KidneyFacts:
    """What a report states of a kidney with a lesion.

    Args:
        side: left or right.
        values: Stated values by attribute, without the size's class.
        hedged: Attributes that are stated as uncertain.
        size_mm: Largest diameter, as rounded in the report; None where it gives none.
        second_mm: Diameter at a right angle to it.
    """

    side: str
    values: Mapping[str, str]
    hedged: frozenset[str] = frozenset()
    size_mm: float | None = None
    second_mm: float | None = None


def kidney_facts(row: Mapping[Any, Any]) -> KidneyFacts:
    """The facts that a report states, from a row of the table `truth`.

    Raises:
        DataError: if the kidney has no lesion.
    """
    if row["lesion_present"] != "yes":
        raise DataError(f"The {row['side']} kidney of patient {row['patient_id']} has no lesion to paraphrase.")
    stated = _names(row["stated"]) - {"lesion_present", "size_class"}
    values = {name: str(row[name]) for name in sorted(stated) if not pd.isna(row[name])}
    size = None if pd.isna(row["stated_size_mm"]) else float(row["stated_size_mm"])
    second = None if size is None or pd.isna(row["second_size_mm"]) else min(size, float(row["second_size_mm"]))
    return KidneyFacts(str(row["side"]), values, frozenset(_names(row["hedged"]) & set(values)), size, second)


def _names(joined: Any) -> set[str]:
    return set() if pd.isna(joined) else {name for name in str(joined).split(";") if name}


def flipped(facts: KidneyFacts) -> Iterator[tuple[str, KidneyFacts]]:
    """Every way to turn one fact into its opposite while the others stay: kind of fact and the changed facts.

    Whether a lesion enhances is one fact, which degree and pattern may both state. Facts that another stated one would
    contradict are left alone: a cyst with a Bosniak class is not made solid.
    """
    yield SIDE, replace(facts, side=opposite(facts.side))
    if facts.size_mm is not None:
        target = _SMALL_MM if facts.size_mm > _BETWEEN_MM else _LARGE_MM
        second = None if facts.second_mm is None else round(facts.second_mm * target / facts.size_mm)
        yield SIZE, replace(facts, size_mm=target, second_mm=second)
    if "bosniak" not in facts.values and (changed := _other_enhancement(facts.values)):
        yield ENHANCEMENT, replace(facts, values={**facts.values, **changed})
    for name, opposites in FLIPS.items():
        value = facts.values.get(name)
        if value in opposites and not _contradicted(facts.values, name):
            yield name, replace(facts, values={**facts.values, name: opposites[value]})


def _other_enhancement(values: Mapping[str, str]) -> dict[str, str]:
    """Degree and pattern, as far as they are stated, of a lesion that does not enhance, or of one that does."""
    stated = [name for name in _ENHANCING if name in values]
    absent = all(values[name] == "none" for name in stated)
    return {name: _ENHANCING[name] if absent else "none" for name in stated}


def _contradicted(values: Mapping[str, str], name: str) -> bool:
    if name == "composition":
        return "bosniak" in values or values.get("enhancement_pattern") in ("none", "septal", "nodular")
    if name == "homogeneity":
        return "necrosis" in values or "macroscopic_fat" in values
    return False


def write_kidney(facts: KidneyFacts, bank: Bank, seed: int) -> str:
    """A text that states the facts and nothing else.

    Words, number format and order depend on the seed and on which facts are stated, never on their values: with the
    same seed, a text and that of the flipped facts differ in the words of the flipped fact alone.

    Args:
        facts: What to state.
        bank: Whose words.
        seed: At least 0.
    """
    return _Writer(facts, load_bank(bank), seed).text()


@dataclass
class _Writer:
    facts: KidneyFacts
    bank: Mapping[str, Any]
    seed: int
    said: set[str] = field(default_factory=set)

    def text(self) -> str:
        opening = self._opening()
        names = [name for name in self.facts.values if name not in self.said]
        # What belongs to the kidney comes last, so that "it" stays the lesion.
        order = sorted(names, key=lambda name: (name in KIDNEY_ATTRIBUTES, self._draw(f"order/{name}")))
        return " ".join([opening, *(self._sentence(name) for name in order)])

    def _opening(self) -> str:
        """Where the lesion is and how large; the impression's sentences serve where no opening fits what is stated."""
        known = set(self.facts.values) | {"side"} | ({"size"} if self.facts.size_mm is not None else set())
        wanted = known & {"side", "size"}
        templates = [*self.bank["openings"], *self.bank["impression"]["lesion"]]
        usable = [text for text in templates if wanted <= placeholders(text) <= known]
        if not usable:
            raise DataError(f"The phrase bank has no opening for {sorted(known)}; add one without further facts.")
        template = self._pick(usable, "opening")
        self.said |= placeholders(template)
        return self._filled(template)

    def _sentence(self, name: str) -> str:
        value = self.facts.values[name]
        hedges = self.bank["uncertain"].get(name, {}).get(value, []) if name in self.facts.hedged else []
        return self._filled(self._pick(hedges or self.bank["sentences"][name][value], name))

    def _filled(self, template: str) -> str:
        words = {"side": self.facts.side}
        for name in placeholders(template) - {"side"}:
            words[name] = self._size() if name == "size" else self._word(name)
        capitals = {f"{name}_capital": word[:1].upper() + word[1:] for name, word in words.items()}
        return sentence_case(template.format(**words, **capitals))

    def _word(self, name: str) -> str:
        return self._pick(self.bank["words"][name][self.facts.values[name]], f"word/{name}")

    def _size(self) -> str:
        unit = "cm" if self._draw("unit") < 0.5 else "mm"
        both = self.facts.second_mm is not None and self._draw("dimensions") < 0.5
        lengths = [self.facts.size_mm or 0.0, self.facts.second_mm or 0.0]
        written = [f"{length / 10:.1f}" if unit == "cm" else f"{length:.0f}" for length in lengths]
        template = self._pick(self.bank["sizes"][2 if both else 1], "size")
        return template.format(a=written[0], b=written[1], unit=unit)

    def _pick(self, options: list[str], purpose: str) -> str:
        return options[int(self._draw(purpose) * len(options))]

    def _draw(self, purpose: str) -> float:
        """A number in [0, 1) that depends on the seed and the purpose alone."""
        return float(np.random.default_rng([self.seed, zlib.crc32(purpose.encode())]).random())
