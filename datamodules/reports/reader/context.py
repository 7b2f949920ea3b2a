"""What the words around a mention do to it: negation, doubt, the past, or no assessment at all.

A compact form of NegEx (Chapman et al., J Biomed Inform 2001;34:301) and ConText (Harkema et al., J Biomed Inform
2009;42:839): triggers before and after a mention, phrases that only look like negation, and words that end a trigger's
scope. It is written out here, without negspacy or medspaCy, because those bring a parser and its weights, split
sentences their own way, and hide the word that decided; here every decision is a pattern that can be read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from datamodules.reports.reader.organs import words

_STOPS = r"(?:but|however|which|who|with|and|is|are|was|were|has|have|there)"
_BEFORE = words(
    r"no|not|non|nil|nothing|nowhere|without|w/o|neither|nor|never|none(?! other)|cannot(?! (?:be )?(?:exclude"
    r"|rule))|absen(?:t|ce)(?: of)?|free (?:of"
    r"|from)|clear of|negative for|lacks?"
    r"|lacking|lack of|devoid of|fails? to|exclud\w+|rul(?:es?|ed|ing) out|denies|cannot (?:be )?(?:see|identif"
    r"|demonstr|detect)\w*"
    r"|unlikely|improbable|free|neg\.?(?: for)?|\w+n't"
)
_INSIDE = words(
    r"not?|without|nor|neither|never|nowhere|none|\w+n't|(?:free|clear|devoid|absence|lack) of|free from|lacks?"
    r"|lacking"
)
_AFTER = words(
    r"(?:is|are|was|were|has been|have been|be|being|can|could|cannot)?(?: ?)(?:not|n't|never|no longer)(?: be"
    r"| been)?(?: \w+)?"
    r"(?: clearly| definitely| reliably| convincingly)? (?:seen|identif\w+|detect\w+|observ\w+|demonstr\w+"
    r"|visuali[sz]\w+|present"
    r"|evident|found|noted|visible|apparent|appreciat\w+|recogni[sz]\w+|shown|discern\w+|reported|recorded"
    r"|there|encountered"
    r"|distinguish\w+|made out|confirmed|describ\w+|depict\w+|delineat\w+|displayed|a feature|\w+able|\w+ible"
    r"|contained|included|proven?|measured|discovered|registered|traced|picked up|perceived|revealed|documented"
    r"|in evidence"
    r"|existent|reached|met|attained|obtained|recorded|to be (?:\w+ )?(?:found|seen|made out|identified|detected)"
    r"|part of (?:it|the)|a part of|looked like)",
    r"(?:do|does|did) not (?:\w+ )?(?:occur|exist|appear|arise)|(?:\w+ )?nowhere(?: \w+)?",
    r"(?:is|are|was|were|remains?) (?:absent|excluded|ruled out|lacking|missing|negative|unlikely|improbable|denied)",
    r"absent|nil|not (?:\w+able|\w+ible|depicted|delineated|present|seen|visible|detected|identified|observed"
    r"|evident|found|demonstrated)|unlikely|ruled out|: no(?:ne)?"
    r"|can(?: ?not|n't) be (?:\w+ )?(?:seen|identified|detected|demonstrated|visuali[sz]ed|found|shown|made out"
    r"|discerned|measured|proven?"
    r"|appreciated|confirmed|recogni[sz]ed|traced|established|delineated|depicted|observed|noted)|excluded|negative",
)
_SOME_CHANGE = (
    r"(?:any|significant\w*|relevant|interval|major|substantial|further|appreciable|essential|obvious|other"
    r"|definite|size"
    r"|notable|considerable|new|meaningful|measurable|evident|real|clear|visible|dimensional|marked)"
)
_PSEUDO = words(
    rf"no (?:{_SOME_CHANGE} )?(?:change|difference|progress\w*|regress(?:ion|ed)?|interval \w+)s?(?: in"
    rf"| of)?(?! (?:attenuation"
    r"|density))",
    r"no (?:\w+ )?(?:increase|decrease|growth)s?(?= (?:in|of) (?:the )?(?:size|number|diameter|volume|extent"
    r"|dimension)| since| comp)",
    rf"not only|without (?:{_SOME_CHANGE} )?(?:change|increase|difference|progress\w*)|not (?:necessarily|certain\w*"
    r"|significantly changed)",
    r"no doubt|not (?:\w+ )?(?:change[ds]?|increased|decreased)|no longer|unchanged|(?:can|could|may"
    r"|might)(?: ?not) (?:\w+ )?be"
    r" (?:\w+ )?(?:excluded|ruled out|denied|dismissed)|(?:not|never)(?: \w+)? (?:be )?(?:excluded|ruled out)"
    r"|not excluded",
    r"(?:can ?not|can't|could ?not|couldn't|unable to|not able to|not possible to|impossible to|does not|do not"
    r"|(?:is|are) not|without) (?:\w+ly )?(?:be )?(?:exclud(?:e|es|ed|ing)|rul(?:e|es|ed|ing) out)",
    r"not further (?:\w+ )?(?:characteri[sz]\w+|specifi\w+)|without contrast|no contrast|non[- ]contrast"
    r"|no(?=\.? ?\d)",
)
_STOP = words(
    r"but(?! (?:was |were )?not (?:found|seen|detected|identified|present|shown))"
    r"|however|except(?:ing)?(?: for)?|apart from|aside from|other than|besides|although|though|while"
    r"|whereas|yet|still"
    r"|which|who|that (?:is|are|contains?|shows?|measures?)|containing|measuring|showing|with(?= (?:an? "
    r"|the )?[\w-]+)|causing"
    r"|there (?:is|are)|because|due to|secondary to|and (?:there|the|a|an|it|is|are)"
)
_VERB = words(r"demonstrat\w+|shows?|showed|contains?|measures?|harbou?rs?|has|have")
_DO_NOT = re.compile(r"\b(?:not|\w+n't|never|nor|fails? to|cannot)(?: \w+ly)? $", re.IGNORECASE)
_NO_PART = re.compile(
    r"\b(?:no|not an?|without|nothing|none|any)(?: (?:\w+ ){0,2}(?:areas?|parts?|portions?|components?|tissue"
    r"|regions?|foci|focus"
    r"|voxels?|pixels?|elements?|values?|material|structures?|zones?))? $",
    re.IGNORECASE,
)
_NOBODY = re.compile(r"(?:neither|no|none|nor|nothing|nowhere)(?: (?!evidence|sign)[\w-]+){0,4} ", re.IGNORECASE)
_LIST_STOP = words(
    r"is|are|was|were|has|have|shows?|seen|there|measures?|measuring|with|contains?|appears?|mild(?:ly)?"
    r"|moderate(?:ly)?|avid(?:ly)?"
    r"|marked(?:ly)?|an?|the|it|its|normal|smooth(?:ly)?|well[- ]\w+|unremarkable|solid|cystic|up to|some|small"
    r"|several|possible"
    r"|possibly|slight(?:ly)?|minimal(?:ly)?|\d[\w.]*"
)
_DOUBT_BEFORE = words(
    r"possib\w+|probab\w+|likely|suspect\w*|suspicio\w+(?: for| of)?|may(?: be)?|might(?: be)?|could(?: be)?"
    r"|questionabl\w+"
    r"|equivocal|suggest\w*|presum\w+|apparent(?:ly)?|concern\w*(?: for| of)?|potential\w*|somewhat"
    r"|conceivabl\w+|perhaps|maybe"
    r"|indeterminate|doubtful|uncertain|impression of|appears? (?:slightly|somewhat|to)|cannot exclude"
    r"|can ?not rule out"
    r"|can't exclude|(?:could ?not|couldn't|unable to|not able to|does not|do not) (?:\w+ly )?(?:exclude|rule out)"
    r"|unlikely|improbable|seems?|query|queried|D/D|differential|consider\w*"
    r"|slightly(?= (?:heterogeneous|inhomogeneous|irregular|indistinct|ill))"
)
_DEFINITE = words(
    r"definit(?:e|ely|ive)|convincing(?:ly)?|certain(?:ly)?|clear(?= evidence)|clearly|unequivocal(?:ly)?|sure"
)
_DOUBT_AFTER = words(
    r"(?:is|are|was|were|be)? ?(?:suspected|possible|probable|likely|questionable|doubtful|equivocal|uncertain"
    r"|conceivable"
    r"|presumed|unlikely|improbable|assumed|considered|debatable|imaginable|not certain|unclear|under suspicion)",
    r"(?:can|could|may|might)(?: ?not|n't)? (?:\w+ )?be (?:\w+ )?(?:excluded|ruled out|present|suspected"
    r"|considered|denied"
    r"|dismissed|assumed)",
    r"not (?:\w+ )?(?:excluded|ruled out)|raises? suspicion|(?:hard|difficult) to exclude|not (?:definitely"
    r"|clearly|certainly)",
)
_SHORT_OF_ALL = (
    "near-",
    "near ",
    "nearly ",
    "almost ",
    "not ",
    "never ",
    "partially ",
    "partly ",
    "partial ",
    "incomplete ",
    "incompletely ",
    "largely ",
    "mostly ",
    "n't ",
    "near-complete ",
    "near complete ",
    "nearly complete ",
    "nearly completely ",
    "almost complete ",
    "almost completely ",
    "near-total ",
    "near total ",
    "subtotal ",
    "not completely ",
    "not fully ",
    "not yet ",
    "not entirely ",
)
_NOT_ALL = "".join(f"(?<!{short})" for short in _SHORT_OF_ALL)
_WHOLLY = (
    r"(?:(?:completely|complete|fully|full|entirely|totally|total|now|since|both|all|meanwhile|interval|again) ){0,3}"
)
_ENDED = r"resolved|disappeared|cleared|subsided|vanished|dissolved|regressed completely|gone|abated|normali[sz]ed"
_GONE_BEFORE = re.compile(
    rf"\b{_NOT_ALL}{_WHOLLY}(?:{_ENDED}|(?:resolution|disappearance|clearance|clearing|complete regression|passage"
    rf"|normali[sz]ation) of)(?: the| this| that| both| all)? (?:(?!{_STOPS}\b)[\w-]+ ){{0,5}}$",
    re.IGNORECASE,
)
_GONE_AFTER = re.compile(
    rf"^(?P<between>[^;]*?)\b(?:(?:has|have|had|is|are|now|was|were) )+{_NOT_ALL}{_WHOLLY}{_NOT_ALL}"
    rf"(?:{_ENDED}|passed(?! (?:in)?to\b| through| down)|no longer|not (?:\w+ )?(?:any ?more|any longer))\b"
    rf"|^(?P<bare>[^;]{{0,40}}?)(?:, | \()now (?:{_ENDED})\b|^ no longer\b|^: (?:{_ENDED})\b",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"(?::| -)\s*(?:no|none|nil|absent|negative|neg|not (?:seen|present|identified|detected|found))\s*(?:[.,;(]|$)"
    r"|\(\s*(?:-|no|none|nil|absent|neg|negative)\s*\)",
    re.IGNORECASE,
)
"""The answer after the colon of a template: "Additional lesions in this kidney: none."."""
_QUESTION = re.compile(r"[^.;,]{0,40}\?")
_PAST = words(
    r"(?:in|on|at) (?:the |a )?(?:previous|prior|earlier|last|old|former) [\w ]{0,30}(?:was|were|measured|had"
    r"|showed)|history of"
    r"|status post|post-?operative|(?:was|were|had been) (?:previously|formerly)|(?:previously|formerly) (?:was"
    r"|were|had|measur\w+)"
    r"|at that time|in which the|resected|excised|surgically removed|was removed"
)
_UNASSESSED = words(
    r"(?:can ?not|could not|not|can't|couldn't)(?: be)?(?: \w+)? (?:evaluat\w+|assess\w+|judged|examin\w+"
    r"|interpret\w+"
    r"|imaged|included)|not (?:fully |completely |entirely )?(?:covered|assessable|evaluable|scanned)"
    r"|outside the (?:field|scan|image"
    r"|section)|(?:distinction|differentiation|discrimination) (?:between|of)|(?:could"
    r"|can) ?not be (?:\w+ )?(?:made|distinguished"
    r"|differentiated)|not in the (?:field|section|study|imag)\w*|non[- ]?diagnostic"
)


@dataclass(frozen=True)
class Context:
    """How a mention is meant.

    Args:
        negated: Said not to be.
        uncertain: Hedged, either way ("possible", "no definite", "cannot be excluded").
        past: Of an earlier examination.
        gone: Said to have been there and to be no more.
        unassessed: Could not be judged.
    """

    negated: bool = False
    uncertain: bool = False
    past: bool = False
    gone: bool = False
    unassessed: bool = False


def context(text: str, start: int, end: int, denies: bool = False) -> Context:
    """The context of a mention in its clause.

    Args:
        text: The clause, with line breaks as blanks.
        start: Where the mention begins.
        end: Where it ends.
        denies: Whether a negation inside the mention belongs to it.
    """
    before, after = text[:start], text[end:]
    pseudo = [match.span() for match in _PSEUDO.finditer(text)]
    negated = _negated_before(before, pseudo) or _negated_after(after, end, pseudo)
    negated = negated or (not denies and _INSIDE.search(text[start:end]) is not None)
    scopes = (before[_scope_start(before) :], text[start:end], after[: _scope_end(after)])
    doubts = [_DOUBT_BEFORE.search(scopes[0]), _DOUBT_BEFORE.search(scopes[1]), _DOUBT_AFTER.search(scopes[2])]
    indefinite = negated and any(_DEFINITE.search(scope) for scope in scopes)
    uncertain = any(doubts) or indefinite or _QUESTION.match(scopes[2]) is not None
    near = (scopes[0], re.split(r"[,(]", scopes[2])[0])
    unassessed = any(_UNASSESSED.search(scope) for scope in near)
    return Context(negated, uncertain, _PAST.search(text) is not None, _is_gone(before, after), unassessed)


def _is_gone(before: str, after: str) -> bool:
    """Whether a mention had been there and is no more: "resolved hydronephrosis", "the stone has passed"."""
    if _GONE_BEFORE.search(before) is not None:
        return True
    found = _GONE_AFTER.match(after)
    if found is None:
        return False
    between = found["between"] or ""
    # "hydronephrosis by a stone which has passed": the stone has, and not what goes before it.
    relative = re.search(r"\b(?:which|that|who)\b", between)
    return relative is None or len(between[: relative.start()].split()) < 2


def _scope_start(before: str) -> int:
    """Where the words begin that can still act on what follows."""
    stops = [match.end() for match in _STOP.finditer(before) if not _goes_on(before[: match.start()], match.group())]
    # "Neither kidney shows ..." denies what follows; "the kidney without stones shows ..." does not.
    stops += [m.end() for m in _VERB.finditer(before) if not _is_denied(before[: m.start()])]
    return max([*stops, before.rfind(";") + 1, before.rfind(". ") + 1, 0])


def _goes_on(before: str, stop: str) -> bool:
    """Whether a negation reaches over this word to what describes its noun: "no area with negative attenuation"."""
    return stop.lower() in ("with", "showing", "measuring", "containing") and _NO_PART.search(before) is not None


def _is_denied(before: str) -> bool:
    """Whether a verb after these words carries a negation on ("does not contain", "neither kidney shows")."""
    return _DO_NOT.search(before) is not None or _NOBODY.fullmatch(before.lstrip(" ,;")) is not None


def _scope_end(after: str) -> int:
    """Where the words end that can still act on what went before."""
    stop = _STOP.search(after)
    ends = [position for position in (after.find(";"), after.find(". "), stop.start() if stop else -1) if position >= 0]
    return min([*ends, len(after)])


def _negated_before(before: str, pseudo: list[tuple[int, int]]) -> bool:
    return any(
        not any(start <= match.start() < end for start, end in pseudo) and not _list_ends(before[match.end() :])
        for match in _BEFORE.finditer(before, _scope_start(before))
    )


def _list_ends(between: str) -> bool:
    """Whether a comma between a negation and a mention begins something new, and no further item of a list."""
    parts = between.split(",")
    if re.search(r"\b(?:or|nor)\b", parts[-1]):
        return False
    return any(_LIST_STOP.match(part.strip()) is not None for part in parts[1:]) or (
        len(parts) > 1 and any(_LIST_STOP.search(part) for part in parts[1:-1])
    )


def _negated_after(after: str, offset: int, pseudo: list[tuple[int, int]]) -> bool:
    scope = after[: _scope_end(after)]
    label = _LABEL.search(scope)
    if label is not None and "," not in scope[: label.start()]:
        return True
    for match in _AFTER.finditer(scope):
        place = offset + match.start()
        inside = any(start <= place + shift < end for start, end in pseudo for shift in (0, len(match.group()) - 1))
        if not inside and "," not in scope[: match.start()]:
            return True
    return False
