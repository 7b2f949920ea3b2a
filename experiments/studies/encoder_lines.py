"""How an encoder looks in every figure."""

from __future__ import annotations

from typing import Any

from experiments.registry import ENCODERS
from experiments.scores.plots.style import COLORS, color

_DASHES = ("--", (0, (5, 1, 1, 1)), ":", (0, (1, 1, 3, 1)))


def encoder_color(name: str) -> str:
    """The colour of an encoder, by its place in the registry."""
    return color(list(ENCODERS).index(name))


def encoder_line(name: str) -> dict[str, Any]:
    """Colour, stroke and width of an encoder's line: solid where this suite pretrained it, broken of baselines.

    Colours repeat after seven encoders, and strokes change with them.
    """
    if not ENCODERS[name].baseline:
        return {"color": encoder_color(name), "linestyle": "-", "linewidth": 1.9}
    turn = list(ENCODERS).index(name) // len(COLORS) % len(_DASHES)
    return {"color": encoder_color(name), "linestyle": _DASHES[turn], "linewidth": 1.3}
