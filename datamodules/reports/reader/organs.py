"""Which organ and which side the words of a clause name."""

from __future__ import annotations

import re
from functools import cache
from typing import Literal

from datamodules.cohort.columns import SIDES

Place = Literal["kidney", "adrenal", "nodes", "chest", "elsewhere"]


_BEHIND = re.compile(r"(\(\?<[!=][^)]*\))")


# Every reader of rules compiles the same few hundred, more than the cache of `re` holds.
@cache
def words(*patterns: str) -> re.Pattern[str]:
    """Patterns on whole words, without regard to case; a blank also matches a colon with a blank ("Margin: sharp")."""
    parts = _BEHIND.split("|".join(patterns))
    joined = "".join(part if _BEHIND.match(part) else part.replace(" ", ":? ") for part in parts)
    return re.compile(rf"(?<!\w)(?:{joined})(?!\w)", re.IGNORECASE)


PLACES: dict[Place, re.Pattern[str]] = {
    "kidney": words(
        r"kidneys?|renal(?:ly)?|reno\w*|nephr\w*|hydro\w*neph\w*|(?:peri|para)[- ]?(?:renal|nephr\w+)|Gerota\S*",
        r"collecting (?:system|duct)s?|caly\w+|cali(?:x|ces|ceal)|pelvi[- ]?(?:o[- ]?)?cal\w+|pyelo\w*|infundibul\w*",
        r"ureter\w*|hydroureter\w*|urolith\w*|pole cysts?|Bosniak|(?:para|peri)pelvic|cortical cysts?",
        r"urinary(?! bladder)|upper tracts?|obstructive uropathy|pyelon",
        r"interpolar",
    ),
    "adrenal": words(r"adrenal\w*|(?:supra|sur)renals?(?! (?:level|aort|segment|IVC)\w*)"),
    "nodes": words(
        r"lymph\w*|adenopath\w*|nodal|nodes?|LAPs?",
        r"(?:retroperitoneal|regional|hilar|(?:para|inter)?-?(?:aortic|aortocaval|caval)|abdominal"
        r"|lumbar) (?:\w+ )?(?:glands|stations|chains)",
        r"glandular enlargement|enlarged glands",
    ),
    "elsewhere": words(
        r"liver|hepat\w*|intrahepatic|spleen|splen\w*|gall ?bladder|gall ?stones?|chole\w*|bil(?:e|iary|iar)"
        r"|pancrea\w*",
        r"stomach|gastr\w*|duoden\w*|bowel|colon|colonic|sigmoid|caec\w*|cec(?:um|al)|append\w*|rect(?:um|al"
        r"|o\w*)|ile\w+"
        r"|jejun\w*|diverticul\w*|omentum|omental|mesenter\w*|peritone(?:um|al)|ascites"
        r"|free fluid",
        r"aort\w*|iliac\w*|celiac|coeliac|SMA|vertebr\w*|spine|spinal|lumb(?:ar|o\w*)|bones?|bony|osseous|rib"
        r"|ribs|stern\w*"
        r"|sacr\w*|(?:bony|small|lesser|true|abdomen and|in the) pelvis|hip|hips|femor\w*|femur\w*|skeletal"
        r"|thora\w*|dorsal spine|disc|discs|muscle\w*|psoas",
        r"\w*pharyn\w*|laryn\w*|parotid\w*|submandib\w*|orbit\w*|paranasal|cervical",
        r"hernia\w*|hiat\w*|(?:urinary )?bladder|prostat\w*|seminal|uter(?:us|ine)|ovar\w*|adnex\w*|vagin\w*"
        r"|abdominal wall"
        r"|subcutaneous|segments? (?:[IVX]+|\d)(?: of the liver)?|skin|brain|neck|diaphragm\w*|portal vein",
    ),
    "chest": words(
        r"lungs?|pulmon\w*|pleur\w*|bronch\w*|trache\w*|mediastin\w*|heart|cardi\w*|pericardi\w*|coronar\w*"
        r"|o?esophag\w*",
        r"superior vena cava|SVC|azygos|supraclav\w*|carina\w*|subcarin\w*|prevascular|aorto-?pulmonary"
        r"|hemithorax|interlobular|retropectoral",
        r"thyroid\w*|breasts?|axill\w*|chest|lobes?|lobar|lingul\w*|fissur\w*|alveol\w*",
    ),
}
"""Words that name an organ; `kidney` includes its vessels, fat and urinary tract."""

REGIONAL = re.compile(
    r"retroperi|para-?aort|para-?cav|abdom|(?<!ad)renal|kidney|aort(?!ic arch|o-?pulm|ico)|aorto-?cav|caval"
    r"|regional|iliac|mesenter",
    re.IGNORECASE,
)
"""Words that place lymph nodes in the abdomen."""
_OF_URINE = re.compile("renal pelvis|bladder", re.IGNORECASE)
_OF_NODES = words(
    r"renal (?:hil(?:um|us|ar)|pedicle|vessels?|veins?|arter\w+)|(?:para|peri)?renal (?:region"
    r"|lymph|nod\w+)"
)

_LANDMARK = re.compile(
    r"\b(?:towards?|fac(?:es|ing)|adjacent to|next to|against|abut(?:s|ting)|contact(?:s|ing)? with|near|beside"
    r"|in front of|behind"
    r"|below|beneath|above|pointing (?:at|to)|displac(?:es|ing)|compress(?:es|ing)|inseparable from|close to"
    r"|like|as|than|that of|similar to|equal to|compar\w+ (?:to|with)|relative to|iso-?\w+ (?:to|with)"
    r"|density of|attenuation of)"
    rf" (?:[\w-]+ ){{0,2}}?(?:{PLACES['elsewhere'].pattern}|{PLACES['chest'].pattern})(?: (?:muscles?|walls?"
    rf"|body|head|tail))?",
    re.IGNORECASE,
)
"""A neighbour that only says where something lies."""

LESION = words(
    r"lesions?|mass(?:es)?|tumou?rs?|neoplas(?:ms?|ia)|nodules?|cysts?|cystic (?:change|area)s?|process(?:es)?"
    r"|neoformations?"
    r"|tumefactions?|finding (?=of \d|measur)"
    r"|formations?(?<!stone formation)"
    r"|(?<!calcific )(?<!calcified )foc(?:us|i)(?! of (?:fat|calcif|gas|air)\w*)|SOLs?|angiomyolipomas?|AMLs?"
    r"|oncocytomas?|carcinomas?|RCCs?|Bosniak"
    r"|space[- ]occupying \w+|growth"
)
"""Nouns of a focal lesion."""

_SIDE = {
    "left": r"left(?:[- ]?(?:sided|kidney|renal))?",
    "right": r"right(?:[- ]?(?:sided|kidney|renal))?",
    "both": r"both(?! (?:lungs?|hemi\w+|lower|upper|breasts?|sides of the))|bilateral(?:ly)?|(?:either|each"
    r"|neither) (?:side"
    r"|kidney|renal|adrenal|of the kidneys)|neither (?:of|left|right)|(?:two|2) kidneys|either|left and right"
    r"|right and left"
    r"|left or right|right or left|on both sides",
    "other": r"contra[- ]?lateral|opposite (?:side|kidney)|other (?:side|kidney)",
}
_SIDES = words(*(f"(?P<{name}>{pattern})" for name, pattern in _SIDE.items()))
_NOT_OF_KIDNEY = words(
    r"(?:left|right) (?:hepatic|lobe|hemi\w+|colon|liver|upper lobe|lower lobe|middle lobe|psoas|atri\w+"
    r"|ventric\w+|iliac"
    r"|lung|pleura\w*|rib|ribs|hemithorax|heart|ovary|breast|axilla|\d+\w* rib|main bronch\w+|coronary)"
)
_NO_SIDE = words(
    r"right (?:up|next|at|beside|against|through|into|onto|away|down|to|on top|angles?|along|across|before"
    r"|after|behind|above"
    r"|below|beneath|between|by|under|over|around|against)(?! the (?:left|right))",
    r"(?:is|are|was|were|be|been|being|has|have|had|mm|cm|fat|planes?|parenchyma|tissue|distance|gap|margin"
    r"|nothing|remains?) left"
    r"(?![- ](?:sided|kidney|renal|adrenal|upper|lower|mid\w*|hil\w+|collecting|ureter\w*|side|\w*neph\w+|pelvi\w+"
    r"|pyel\w+|hydro\w*|supra-?renal|para-?aort\w*|cort\w+|cal[yi]\w+))",
    r"left (?:over|behind|intact|untouched|unaffected|free|out|undisturbed|unchanged|between|alone|in place)",
)
"""Words that are no side: "right up to the sinus", "5 mm of parenchyma are left"."""
PLURAL = words(r"kidneys|adrenals|adrenal glands|suprarenal glands|collecting systems|renal pelves|ureters")

_BETWEEN_ORGANS = re.compile(
    rf"\bbetween (?:the )?(?:(?:left|right) )?(?:{PLACES['kidney'].pattern} and (?:[\w-]+ ){{0,3}}"
    rf"{PLACES['elsewhere'].pattern}|{PLACES['elsewhere'].pattern} (?:tissue )?and (?:[\w-]+ ){{0,3}}"
    rf"{PLACES['kidney'].pattern})(?: tissue)?",
    re.IGNORECASE,
)


def places(text: str) -> frozenset[Place]:
    """The organs that a text names; nodes at the renal hilum are no kidney, and a landmark is no subject."""
    text = _LANDMARK.sub(" ", text)
    if _BETWEEN_ORGANS.search(text):
        # What lies between the kidney and another organ is of neither.
        text = f"{_BETWEEN_ORGANS.sub(' ', text)} retroperitoneal muscle"
    found: set[Place] = {place for place, pattern in PLACES.items() if pattern.search(text)}
    if "nodes" in found and not PLACES["kidney"].search(_OF_NODES.sub(" ", text)):
        found.discard("kidney")
    if found & {"kidney", "adrenal"} and not PLACES["elsewhere"].search(_OF_URINE.sub(" ", text)):
        found.discard("elsewhere")
    return frozenset(found)


def side_mentions(text: str) -> list[tuple[int, int, str]]:
    """Start, end and name (`left`, `right`, `both`, `other`) of every word for a side that may be a kidney's."""
    foreign = [match.span() for pattern in (_NOT_OF_KIDNEY, _NO_SIDE) for match in pattern.finditer(text)]
    return [
        (match.start(), match.end(), str(match.lastgroup))
        for match in _SIDES.finditer(text)
        if not any(start <= match.start() < end for start, end in foreign)
    ]


def opposite(side: str) -> str:
    """The other side."""
    return SIDES[1 - SIDES.index(side)]
