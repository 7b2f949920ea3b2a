"""How an encoder looks: one colour and marker in every figure of every task; pretrained ones strong, baselines grey."""

from __future__ import annotations

from typing import Any

from experiments.registry import ENCODERS

_PRETRAINED: dict[str, tuple[str, str]] = {
    "stage1": ("#0072B2", "o"),
    "aligned": ("#D55E00", "s"),
    "stage1_boosting": ("#56B4E9", "^"),
    "stage1_prompts": ("#44AA99", "p"),
    "supervised": ("#CC79A7", "D"),
    "aligned_base_text": ("#E69F00", "v"),
    "aligned_one_stage": ("#7F3C00", "P"),
    "aligned_infonce": ("#009E73", "X"),
    "aligned_lora": ("#882255", "h"),
    "radiomics_stage1": ("#332288", "<"),
    "radiomics_aligned": ("#AA4499", ">"),
}
"""Colour and filled marker: those of Okabe and Ito (2008) first, then of Tol's muted scheme."""
_DARK, _LIGHT = "#4D4D4D", "#8C8C8C"
_DASHED, _DOTTED, _MIXED, _SPARSE = "--", ":", (0, (5, 1, 1, 1)), (0, (1, 1, 3, 1))
_BASELINES: dict[str, tuple[str, str, object]] = {
    "size": (_DARK, "o", _DASHED),
    "clinical": (_LIGHT, "s", _DASHED),
    "scratch": (_DARK, "^", _MIXED),
    "regions": (_LIGHT, "v", _MIXED),
    "radiomics": (_DARK, "D", _DOTTED),
    "radiomics_linear": (_LIGHT, "d", _DOTTED),
    "ct_fm": (_DARK, "P", _SPARSE),
    "merlin": (_LIGHT, "X", _SPARSE),
    "merlin_astra": (_DARK, "<", _SPARSE),
    "merlin_astra_half": (_LIGHT, ">", _SPARSE),
    "ct_clip": (_DARK, "h", _SPARSE),
    "renalclip": (_LIGHT, "p", _SPARSE),
}
"""Grey, open marker and stroke."""


def encoder_color(name: str) -> str:
    """The colour of an encoder."""
    if not ENCODERS[name].baseline:
        return _PRETRAINED.get(name, ("#117733", ""))[0]
    return _BASELINES.get(name, (_LIGHT, "", ""))[0]


def encoder_line(name: str) -> dict[str, Any]:
    """Colour, stroke and width of an encoder's line: solid where this suite pretrained it, broken of baselines."""
    if not ENCODERS[name].baseline:
        return {"color": encoder_color(name), "linestyle": "-", "linewidth": 1.9}
    stroke = _BASELINES[name][2] if name in _BASELINES else _DASHED
    return {"color": encoder_color(name), "linestyle": stroke, "linewidth": 1.3}


def encoder_marker(name: str) -> dict[str, Any]:
    """Marker of an encoder's points: filled where this suite pretrained it, open of baselines.

    An encoder that was added to the registry and has no look of its own here is marked by the first letter of its name.
    """
    found = _PRETRAINED.get(name) or _BASELINES.get(name)
    face = "white" if ENCODERS[name].baseline and found else encoder_color(name)
    return {
        "marker": found[1] if found else f"${name[0]}$",
        "markerfacecolor": face,
        "markeredgecolor": encoder_color(name),
    }
