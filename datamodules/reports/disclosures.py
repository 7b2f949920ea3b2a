"""What a clinical report may not carry into a cohort: who the patient is, and what pathology or follow-up would tell.

Identity follows the Safe Harbor list (45 CFR 164.514(b)(2)): names, dates finer than a year, numbers of records, ages
over 89, contacts. The label leaks where a report written or amended after treatment names histology, grade,
pathological stage or outcome. A radiologist's hedged diagnosis ("suspicious for renal cell carcinoma") is an imaging
impression and is told apart. What is found is named by kind and place alone: its words are never shown.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from datamodules.errors import Finding

Kind = Literal[
    "name", "date", "record number", "age over 89", "contact", "pathology", "grade or stage", "outcome", "impression"
]

_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_YEAR = r"(?:19|20)\d\d"
_WORD = r"[A-ZÀ-ÖØ-Þ][\w'’-]+"
_PERSON = (
    rf"(?:[A-Z]\. ?)*{_WORD}(?:,? (?!(?:MRN|PID|DOB|SSN|NHS|ID|MD|CT|MRI|Age|Sex|Date|Left|Right|Exam|Study)\b)"
    rf"(?:{_WORD}|[A-Z]\.)){{0,3}}"
)
_CANCER = (
    r"(?:clear[- ]cell|papillary|chromophobe|collecting[- ]duct|(?<!adreno)medullary|sarcomatoid|rhabdoid"
    r"|translocation|eosinophilic)"
    r"(?: type)? (?:renal(?: cell)? |cell )?(?:carcinoma|cancer|RCC|tumou?r|variant|features|differentiation"
    r"|histology|type)"
    r"|(?:cc|p|ch)RCC|renal[- ]cell (?:carcinoma|cancer)|RCCs?|oncocytomas?|(?:urothelial"
    r"|transitional[- ]cell) carcinoma"
    r"|hypernephroma|nephroblastoma|Wilms'? tumou?r|clear[- ]cell renal"
)
_IDENTITY: dict[Kind, tuple[str, ...]] = {
    "name": (
        rf"(?i:\b(?:patient(?:'s)?(?: name)?|name|surname|first name|last name)) ?: ?(?!(?i:male|female|man|woman"
        rf"|unknown|not|no|is|was|the|a)\b)(?P<span>{_PERSON})",
        rf"(?i:\b(?:(?:electronically |digitally )?(?:signed|dictated|reported|verified|approved|read|reviewed"
        rf"|transcribed|typed) by|(?:referring|attending|requesting|treating|reporting)? ?(?:physician|doctor"
        rf"|radiologist|surgeon|urologist|clinician)))(?: ?:| (?=(?i:dr|prof)\b)) ?(?P<span>(?:(?i:dr|prof|mr|mrs"
        rf"|ms|md)\.? ?)*{_PERSON})",
        rf"\b(?i:dr|prof|mr|mrs|ms|miss|herr|frau)\.? (?:(?i:dr|prof|med)\.? )*(?P<span>{_PERSON})",
        rf"\bpatient,? (?P<span>{_WORD},? {_WORD})(?=,? (?:is|was|has|presents|a \d|\d|born|who))",
    ),
    "date": (
        r"(?<![\d.,/-])(?:0?[1-9]|[12]\d|3[01])(?P<a>[./-])(?:0?[1-9]|[12]\d|3[01])(?P=a)(?:(?:19"
        r"|20)?\d\d)(?![\d/-]|[.,]\d)(?! ?(?:mm|cm))",
        rf"(?<![\d.,/-]){_YEAR}(?P<b>[./-])(?:0?[1-9]|1[0-2])(?P=b)(?:0?[1-9]|[12]\d|3[01])(?![\d/-])",
        rf"(?<!\d){_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?!\d)",
        rf"(?i:\b(?:\d{{1,2}}(?:st|nd|rd|th)?(?: of)?[ -])?{_MONTH}[ -](?:\d{{1,2}}(?:st|nd|rd|th)?,? )?{_YEAR}\b)",
        rf"(?i:\b\d{{1,2}}(?:st|nd|rd|th)?(?: of)? (?!may\b){_MONTH}(?!\w))",
        r"(?i:\b(?:date of birth|birth ?date|dob|born(?: on)?) ?:? ?(?P<span>[\d./-]{4,}))",
    ),
    "record number": (
        r"(?i:\b(?:MRN|M\.R\.N\.|PID|SSN|NHS|medical record|(?:patient|record|case|hospital|file|chart|accession"
        r"|study|exam|episode|visit|insurance|protocol|unit|order|admission)(?:'s)? ?(?:id|no|nr|number"
        r"|#))(?: number| no)?\.?) ?[:#]? ?(?=[\w/-]*\d)(?P<span>[\w][\w/-]{2,})",
        r"(?<![\d.,-])\d{3}-\d{2}-\d{4}(?![\d-])",
        r"(?<![\w.,-])\d{7,}(?![\w]|[.,]\d)",
        r"(?<![\w.])[0-2](?:\.\d+){5,}(?![\w])",
        r"\b[A-Z]{1,4}-?\d{6,}\b",
    ),
    "age over 89": (
        r"(?i:\b(?P<span>9\d|1[0-3]\d)(?=(?: |-)?(?:years?|yrs?|y/o|yo|y\.o\.|y)(?:(?: |-)old| of age)?\b))",
        r"(?i:\b(?:aged?|age of) ?:? ?(?P<span>9\d|1[0-3]\d)\b(?! ?(?:mm|cm|HU|%|days|months|min)))",
        r"\b(?P<span>9\d|1[0-3]\d)(?= ?(?:[MF]\b|[- ]?(?i:jährig)))",
    ),
    "contact": (
        r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
        r"(?i:\b(?:tel|phone|telephone|fax|mobile|pager)(?: no)?\.? ?:? ?(?P<span>\+?[\d(][\d ()/.-]{5,}\d))",
        r"(?<![\w.])\+\d{1,3}[ -]?\(?\d[\d ()/-]{6,}\d",
        r"(?<![\w.-])\(?\d{3}\)?[ -]\d{3}-\d{4}(?![\w-])",
        rf"\b\d{{1,4}}[a-z]? {_WORD}(?: {_WORD})? (?:Street|St\.|Road|Rd\.|Avenue|Ave\.|Lane|Drive|Boulevard)",
    ),
}
_LABEL: dict[Kind, tuple[str, ...]] = {
    "pathology": (
        r"histopatholog\w*|histolog\w*|immunohisto\w*|immunophenotyp\w*|frozen section|(?:surgical|resection"
        r"|nephrectomy|pathology) specimens?|specimens? (?:show|reveal|confirm|demonstrat)\w*",
        r"(?:surgical|final|operative|postoperative|post-operative) patholog\w*|patholog(?:y|ical"
        r"|ic)(?:(?: \w+)? (?:reports?|results?|examination|diagnosis|review|specimen|analysis|correlation shows)"
        r"|(?: \w+)? (?:show|reveal|confirm|demonstrat|prove|return|came|was consistent|consistent|indicat)\w*|:)",
        r"(?:on|at|by|per|from|in|after|to) (?:the )?(?:final |surgical )?patholog(?:y|ist)(?! (?:is|was|of|in"
        r"|that|detect|observ))|patholog(?:ically|y)[- ](?:proven|confirmed|verified|diagnosed)",
        r"(?:biopsy|cytology|aspiration|FNA)[- ](?:proven|confirmed|verified|result\w*|show\w*|reveal\w*"
        r"|demonstrat\w*|diagnos\w*|was|yield\w*|return\w*|came|positive|negative)|biops(?:y|ies):|biopsied|(?:on"
        r"|by|after|at|per|previous|prior|status post|s/p) (?:\w+ )?biopsy",
        r"(?:proven|confirmed|known|diagnosed|established|treated|resected"
        r"|removed)(?: \w+){0,3} (?:" + _CANCER + r")|(?:" + _CANCER + r")(?: \w+){0,3} (?:proven|confirmed"
        r"|diagnosed|resected|removed)",
    ),
    "grade or stage": (
        r"(?:WHO/?)?ISUP|Fuhrman|Furhman|(?:nuclear|tumou?r|histologic(?:al)?|WHO|nucleolar) grad(?:e|ing)"
        r"|(?:high|low|intermediate)[- ]grade (?:carcinoma|RCC|cancer|tumou?r|malignan\w*|neoplasm|renal cell"
        r"|urothelial)|grade (?:[1-4]|I{1,3}|IV) (?:of 4|(?:clear|renal|papillary|chromophobe|RCC|carcinoma"
        r"|tumou?r|cancer)\w*)",
        r"[yr]?p(?:[TNM](?:[0-4][a-d]?|[xX]|is))(?:[ ,]*(?:[cp]?[NM][0-2xX]))*|(?:TNM|AJCC|UICC"
        r"|patholog\w+) ?stag(?:e|ing)|stage (?:[1-4]|I{1,3}V?|IV) (?:\w+ )?(?:RCC|carcinoma|cancer|disease"
        r"|tumou?r)",
    ),
    "outcome": (
        r"died|deceased|death|mortality|passed away|succumbed|dead of|(?:was|is|remains?|still) alive|(?:overall"
        r"|disease|cancer|recurrence|progression)[- ](?:free |specific )?survival|surviv(?:ed|al|or)\w*",
        r"recurr?ed|relapsed|(?:later|subsequently|eventually) (?:\w+ ){0,2}(?:developed|underwent|recur\w*"
        r"|progress\w*|metasta\w*|resected|died)|(?:recurrence|relapse|metasta\w+|progression) (?:after|at"
        r"|within) \d+|(?:months?|years?|weeks?) later|disease[- ]free|recurrence[- ]free|progression[- ]free"
        r"|lost to follow[- ]?up|follow[- ]?up (?:showed|revealed|confirmed)",
    ),
    "impression": (_CANCER + r"|angiomyolipomas?|malignan\w+|carcinomas?",),
}
_HEDGE = re.compile(
    r"\?|\b(?:suspicio\w*|suspect\w*|suggest\w*|compatible|consistent|likely|probabl\w+|possib\w+|concern\w*"
    r"|exclud\w*|rul(?:e|ed|ing) out"
    r"|differential|DD|D/D|favou?r\w*|versus|vs|may|might|could|cannot|typical|presum\w*|potential\w*|in keeping"
    r"|query|question\w*"
    r"|indeterminate|considered|represent\w*|such as|e\.g|no|without|not|evaluate for|or)\b",
    re.IGNORECASE,
)
_NAMED = re.compile(rf"(?<!\w)(?:{_CANCER})(?!\w)", re.IGNORECASE)
_ADVISED = re.compile(r"\b(?:recommend\w*|advis\w*|suggest\w*|appropriate|required|should|if)\b", re.IGNORECASE)
_TOLD_BY = re.compile(r"\b(?:proven|confirmed|show\w*|reveal\w*|demonstrat\w*|was|were)\b", re.IGNORECASE)
_ORDINARY = re.compile(
    r"\b(?:no|any|other|significant|additional|obvious|evident|gross|acute|focal|occlusive"
    r"|infiltrative)(?: \w+){0,2} pathology(?! (?:report|result|specimen|confirm|prove)\w*)"
    r"|post-?mortem artefact",
    re.IGNORECASE,
)
"""Pathology as a word for what is abnormal."""
_SENTENCE = re.compile(r"(?<=[.!?])[\"”’)]*\s+|\n+")
_PATTERNS = {kind: [re.compile(pattern) for pattern in patterns] for kind, patterns in _IDENTITY.items()}
_LEAKS = {
    kind: re.compile("|".join(rf"(?<!\w)(?:{pattern})(?!\w)" for pattern in patterns), re.IGNORECASE)
    for kind, patterns in _LABEL.items()
}


@dataclass(frozen=True)
class Disclosure:
    """A place of a report that discloses something.

    Args:
        kind: What.
        start: Where it begins; a leak of the label takes its whole sentence.
        end: Where it ends.
    """

    kind: Kind
    start: int
    end: int


def disclosures(text: str) -> list[Disclosure]:
    """What a report discloses, in the order of its text.

    Args:
        text: The report.
    """
    found = [
        Disclosure(kind, *match.span("span" if "span" in pattern.groupindex else 0))
        for kind, patterns in _PATTERNS.items()
        for pattern in patterns
        for match in pattern.finditer(text)
    ]
    first = 0
    ends = [match.span() for match in _SENTENCE.finditer(text)]
    for last, following in [*ends, (len(text), len(text))]:
        kind = _leak(text[first:last])
        if kind is not None:
            found.append(Disclosure(kind, first, last))
        first = following
    return sorted(found, key=lambda entry: (entry.start, entry.end))


def _leak(sentence: str) -> Kind | None:
    """What a sentence tells of the label, the gravest first; None where it tells nothing."""
    sentence = _ORDINARY.sub(" ", sentence)
    for kind, pattern in _LEAKS.items():
        asked = kind == "pathology" and _ADVISED.search(sentence) and not _TOLD_BY.search(sentence)
        if kind != "impression" and not asked and pattern.search(sentence):
            return kind
    if _NAMED.search(sentence) and not _HEDGE.search(sentence):
        return "pathology"  # named as a fact
    return "impression" if _LEAKS["impression"].search(sentence) else None


def redacted(text: str) -> str:
    """A report without what it discloses: identity as "[date]", sentences that tell the label left out.

    No mark stands where a sentence was, because that there was one would tell the label, too.

    Args:
        text: The report.

    Returns:
        The rest; may be empty.
    """
    found = [entry for entry in disclosures(text) if entry.kind != "impression"]
    cut = [entry for entry in found if entry.kind in _LABEL]
    kept: list[str] = []
    place = 0
    for entry in sorted(found, key=lambda one: (one.start, -one.end)):
        inside = any(one is not entry and one.start <= entry.start and entry.end <= one.end for one in cut)
        if inside or entry.start < place:
            continue
        kept += [text[place : entry.start], "" if entry in cut else f"[{entry.kind}]"]
        place = entry.end
    return re.sub(r"[ \t]{2,}", " ", "".join([*kept, text[place:]])).strip()


def check_disclosures(texts: Sequence[str], where: str = "reports.parquet") -> list[Finding]:
    """A FAIL for every kind of disclosure, with its rows; a WARN for diagnoses that imaging suspects.

    Args:
        texts: The reports, in the order of their table.
        where: The table, for the findings.

    Returns:
        Findings by kind; a single PASS where there is nothing. No word of a report is among them.
    """
    rows: dict[Kind, list[int]] = {}
    for place, text in enumerate(texts, start=1):
        for kind in sorted({entry.kind for entry in disclosures(text)}):
            rows.setdefault(kind, []).append(place)
    findings = [
        Finding(
            "WARN" if kind == "impression" else "FAIL",
            f"{len(places)} of {len(texts)} reports hold {_TOLD[kind]}",
            f"{where}, rows {_listed(places)}",
            "imaging findings only",
            "read them: they are the radiologist's own, or were added later"
            if kind == "impression"
            else "add --redact (REDACT=true) for a cleaned copy, or correct the source",
        )
        for kind in _TOLD
        if (places := rows.get(kind))
    ]
    passed = Finding("PASS", f"no name, date, number, pathology or outcome was found in {len(texts)} reports", where)
    return findings if any(finding.level == "FAIL" for finding in findings) else [*findings, passed]


_TOLD: dict[Kind, str] = {
    "name": "a person's name",
    "date": "a date finer than a year",
    "record number": "the number of a record",
    "age over 89": "an age over 89",
    "contact": "a telephone number, an address or e-mail",
    "pathology": "pathology, or name a histology as a fact",
    "grade or stage": "a grade or a pathological stage",
    "outcome": "the outcome or a later treatment",
    "impression": "a diagnosis that imaging suspects",
}


def _listed(places: Sequence[int], shown: int = 8) -> str:
    more = f" and {len(places) - shown} more" if len(places) > shown else ""
    return ", ".join(map(str, places[:shown])) + more
