"""Timing of several functions side by side, on a machine that others may be using too."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def interleaved(
    functions: Mapping[str, Callable[[], Any]], rounds: int, advance: Callable[[], None] = lambda: None
) -> list[dict[str, tuple[float, float]]]:
    """Call every function once per round, each round beginning with another one.

    What happens on the machine meanwhile then hits all functions alike, and figures of one round may be compared.

    Args:
        functions: By name; each is called once before the first round, untimed.
        rounds: Number of rounds.
        advance: Called after every call.

    Returns:
        For every round the wall-clock and the processor seconds by name.
    """
    for function in functions.values():
        function()
        advance()
    names, results = list(functions), []
    for number in range(rounds):
        start = number % len(names)
        seconds: dict[str, tuple[float, float]] = {}
        for name in names[start:] + names[:start]:
            wall, processor = time.perf_counter(), time.process_time()
            functions[name]()
            seconds[name] = (time.perf_counter() - wall, time.process_time() - processor)
            advance()
        results.append(seconds)
    return results


def summarize(
    rounds: Sequence[Mapping[str, tuple[float, float]]], volumes: int, reference: str
) -> dict[str, dict[str, float | list[float]]]:
    """Milliseconds a volume, volumes a second, and how many times as fast as the reference.

    Args:
        rounds: As `interleaved` returns them.
        volumes: Volumes per call.
        reference: Name of the reference.

    Returns:
        Figures by name. A ratio is the median over the rounds of both times within one round; `ratio_range` holds
        the smallest and the largest of them.
    """
    figures: dict[str, dict[str, float | list[float]]] = {}
    for name in rounds[0]:
        wall, processor = ([1000 * times[name][kind] / volumes for times in rounds] for kind in (0, 1))
        ratios, processor_ratios = ([times[reference][kind] / times[name][kind] for times in rounds] for kind in (0, 1))
        figures[name] = {
            "wall_ms_median": statistics.median(wall),
            "wall_ms_min": min(wall),
            "processor_ms_median": statistics.median(processor),
            "processor_ms_min": min(processor),
            "volumes_per_second": 1000 / statistics.median(wall),
            "ratio_to_reference": statistics.median(ratios),
            "ratio_range": [min(ratios), max(ratios)],
            "ratio_to_reference_processor": statistics.median(processor_ratios),
        }
    return figures
