"""Which language a report is written in, by its script and its function words: the rules read English alone.

Chosen by trial on short texts of radiology: general identifiers by letter n-grams (langdetect, py3langid, lingua) take
6 to 39 % of short English phrases such as "No perirenal stranding." for another language, because the terms are Latin.
Function words and the everyday words of radiology are distinct, and a text that has none of them is left alone.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache

from datamodules.errors import DataError

ENGLISH = "English"
_WORDS = {
    ENGLISH: (
        "the of and with without are was were has have this that it its on at by from not which there left right "
        "both either each kidney kidneys stone stones seen size upper lower than other within shows no is in to "
        "an as be or for"
    ),
    "German": (
        "der die das und mit ohne ein eine einer eines im am beide beiden beidseits links rechts linke linken "
        "rechte rechten niere nieren kein keine keinen nicht ist sind wird auf bei des dem den zur zum "
        "unauffällig unauffällige regelrecht raumforderung zyste nebennieren nebenniere befund von bis größe "
        "große nachweis vergrößert"
    ),
    "French": (
        "le la les des du une et avec sans est sont dans rein reins gauche droit droite pas deux aux au sur ni "
        "taille masse kyste surrénales normales normaux pôle mesurant il elle"
    ),
    "Spanish": (
        "el los las del una y con sin es son en se riñón riñones izquierdo izquierda derecho derecha ambos ambas "
        "polo quiste masa observan observa hay ni glándulas tamaño"
    ),
    "Italian": (
        "il lo gli della delle dei del una e con senza sono nel nella rene reni sinistro sinistra destro destra "
        "entrambi non si ai alla polo cisti formazione surreni nei sede norma"
    ),
    "Dutch": (
        "het een en van met zonder zijn nier nieren linker rechter beide geen niet wordt bij cyste bijnieren "
        "vergrote vergroot de in"
    ),
    "Portuguese": (
        "o os as do da dos das uma e com sem são no na rim rins esquerdo esquerda direito direita ambos não há se "
        "cisto massa nem observam"
    ),
    "Turkish": (
        "ve ile bir her iki sol sağ böbrek böbrekte böbreğin izlenmektedir izlendi izlenmedi saptanmadı saptandı "
        "mevcuttur olup normaldir doğal çapında boyutunda kitle kist lezyon bezler bezi görünümde"
    ),
    "Polish": (
        "i z w na o nie jest są bez nerka nerki lewa prawa lewej prawej obie torbiel nadnercza się do guz guzem "
        "powiększone powiększonych zastoju"
    ),
    "Swedish": (
        "och med utan är en ett i på av njure njurar njurarna vänster höger båda ingen inga inte cysta binjurarna "
        "som till"
    ),
    "Danish or Norwegian": (
        "og med uten uden er en et i på av af nyre nyrer nyrene venstre høyre højre begge ingen ikke cyste "
        "binyrer som til"
    ),
}
_TELLING = {
    name: frozenset(words.split()) - (frozenset(_WORDS[ENGLISH].split()) if name != ENGLISH else frozenset())
    for name, words in _WORDS.items()
}
"""Words that tell a language: one that English has, too, tells English."""
_SCRIPTS = {
    "CJK": "Chinese",
    "HIRAGANA": "Japanese",
    "KATAKANA": "Japanese",
    "HANGUL": "Korean",
    "CYRILLIC": "Russian or another language in Cyrillic letters",
    "GREEK": "Greek",
    "ARABIC": "Arabic or another language in Arabic letters",
    "HEBREW": "Hebrew",
    "THAI": "Thai",
    "DEVANAGARI": "Hindi or another language in Devanagari",
}
_FOREIGN_SHARE = 0.2
"""Share of letters of another script that names the language: Greek letters and names stay below it."""
_LEAST_WORDS = 2
"""Words of a language that a text must have to be called it."""


def language(text: str) -> str | None:
    """The language of a report; None where too little tells it, as in "Bosniak III.".

    Args:
        text: The report.
    """
    letters = [letter for letter in text if letter.isalpha()]
    foreign = Counter(script for letter in letters if not letter.isascii() and (script := _script(letter)) is not None)
    if foreign and sum(foreign.values()) > _FOREIGN_SHARE * len(letters):
        # Japanese is written with Chinese characters, too.
        return "Japanese" if "Japanese" in foreign else foreign.most_common(1)[0][0]
    words = [word.lower() for word in re.findall(r"[^\W\d_]+", unicodedata.normalize("NFC", text))]
    counts = {name: sum(word in telling for word in words) for name, telling in _TELLING.items()}
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] >= (1 if best == ENGLISH else _LEAST_WORDS) else None


def foreign_reports(texts: Sequence[str]) -> dict[str, list[int]]:
    """Language to the positions of the reports that are written in it, English and untold ones left out."""
    found: dict[str, list[int]] = {}
    for place, text in enumerate(texts):
        name = language(text)
        if name not in (None, ENGLISH):
            found.setdefault(str(name), []).append(place)
    return found


def check_english(texts: Sequence[str]) -> None:
    """Refuse reports that rules for English would misread.

    Raises:
        DataError: naming the languages, how many reports are in each, and the first of them.
    """
    found = foreign_reports(texts)
    if not found:
        return
    named = ", ".join(
        f"{len(places)} in {name} (the first is report {places[0] + 1})" for name, places in found.items()
    )
    raise DataError(
        f"Of {len(texts)} reports {sum(map(len, found.values()))} are not in English: {named}. The rules read English "
        "alone; translate these reports, or read them with EXTRACTOR=llm and a model that knows the language."
    )


@cache
def _script(letter: str) -> str | None:
    name = unicodedata.name(letter, "").split(" ")[0]
    return _SCRIPTS.get(name.split("-")[0])
