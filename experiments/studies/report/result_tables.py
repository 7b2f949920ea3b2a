"""The results of a task: every encoder in every group, against the best baseline."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd

from experiments.registry import ENCODERS
from experiments.scores.outcomes import ACROSS_FOLDS, Metric, across_columns
from experiments.statistics.bootstrap import percentile_difference, percentile_interval, ratio
from experiments.statistics.estimate import Estimate
from experiments.statistics.multiplicity import holm
from experiments.studies.compare import REPORTED
from experiments.studies.curve.curve_table import Cell
from experiments.studies.report.finished_points import PointSeries, finite
from experiments.studies.report.journal_words import capital, interval, p_value, percent_signed, plural, signed
from experiments.studies.report.report_page import PageTable, Row


def results_frame(cells: Sequence[Cell], fraction: float) -> pd.DataFrame:
    """Every encoder at one share of the labels, with its difference to the best baseline of the group.

    The baseline with the highest estimate in a group is the one compared with, the hardest comparison. Pretrained
    encoders are tested against it in the pooled groups; Holm's correction is over all of these tests.

    Args:
        cells: From `cells_of`.
        fraction: The share of the labels.

    Returns:
        Columns group, kind, endpoint, encoder, seeds, n, what is counted, the metric, low, high, interval (its method),
        across_folds, across_folds_low, across_folds_high, across_folds_interval (pooled folds; only where there are
        folds), baseline (the best), difference, difference_low, difference_high, difference_interval, p, p_holm, gain
        (relative), gain_low, gain_high, gain_interval.
    """
    shown = [cell for cell in cells if cell.fraction == fraction]
    rows = []
    for key in dict.fromkeys((cell.group, cell.endpoint) for cell in shown):
        own = [cell for cell in shown if (cell.group, cell.endpoint) == key]
        bases = [c for c in own if ENCODERS[c.encoder].baseline and finite(c.pooled.estimate.value)]
        best = max(bases, key=lambda cell: cell.pooled.estimate.value) if bases else None
        rows += [_row(cell, best) for cell in own]
    frame = pd.DataFrame(rows)
    frame["p_holm"] = holm(frame["p"].to_numpy(dtype=float))
    return frame


def _row(cell: Cell, best: Cell | None) -> dict[str, object]:
    estimate, metric = cell.pooled.estimate, cell.pooled.metric
    row: dict[str, object] = {
        "group": cell.group,
        "kind": cell.kind,
        "endpoint": cell.endpoint,
        "encoder": cell.encoder,
    }
    row |= {"seeds": len(cell.pooled.by_seed), "n": estimate.n, metric.count: estimate.events}
    row |= {metric.name: estimate.value, "low": estimate.low, "high": estimate.high, "interval": estimate.interval}
    row |= across_columns(cell.pooled.across_folds)
    row["baseline"] = "" if best is None else best.encoder
    row |= dict.fromkeys(("difference", "difference_low", "difference_high", "p"), np.nan)
    row |= dict.fromkeys(("gain", "gain_low", "gain_high"), np.nan)
    row |= dict.fromkeys(("difference_interval", "gain_interval"), "")
    if best is None or best is cell or not finite(estimate.value):
        return row
    base = best.pooled
    against = cell.pooled.support.minus(base.support)
    difference = percentile_difference(estimate.value - base.estimate.value, cell.pooled.values - base.values, against)
    gap, level = difference.estimate, base.estimate.value
    gain = percentile_interval(
        estimate.value / level - 1 if level else np.nan,
        ratio(cell.pooled.values, base.values) - 1,
        against.times(1 / level if level else np.nan),
    )
    row |= {"difference": gap.value, "difference_low": gap.low, "difference_high": gap.high}
    row |= {"gain": gain.value, "gain_low": gain.low, "gain_high": gain.high}
    row |= {"difference_interval": gap.interval, "gain_interval": gain.interval}
    if cell.kind in REPORTED and not ENCODERS[cell.encoder].baseline:
        row["p"] = difference.p
    return row


def results_table_of(series: PointSeries, frame: pd.DataFrame) -> PageTable:
    """The results as a table of the report."""
    metric = series.metric
    title = f"{'Harrell ' if metric.survival else ''}{metric.title} (95 % CI)"
    pooled = ("Across folds, pooled (95 % CI)",) if metric.within_folds else ()
    header = ("Encoder", "n", capital(metric.count_title), capital(title), *pooled, "Minus best baseline (95 % CI)")
    rows = []
    for _, own in frame.groupby(["group", "endpoint"], sort=False):
        first = own.iloc[0]
        named = f", {first['endpoint'].upper()}" if first["endpoint"] else ""
        base = f"; best baseline: {ENCODERS[first['baseline']].title}" if first["baseline"] else "; no baseline was run"
        rows.append(Row((f"{capital(first['group'])}{named}{base}",), heading=True))
        rows += [_cells(row, metric) for row in own.to_dict("records")]
    tests = int(frame["p"].notna().sum())
    seeds = series.seeds(series.fraction)
    note = (
        f"{series.title}, {series.fraction:.0%} of the training labels, mean over {plural(len(seeds), 'seed')} "
        f"({', '.join(map(str, seeds))}). Intervals and two-sided p values: bootstrap of patients, 2,000 replicates, "
        "the same for all encoders. Relative gain: metric over that of the best baseline, minus 1. "
        + (f"Holm's correction is over the {plural(tests, 'test')} of this table." if tests else "Nothing was tested.")
    )
    if metric.within_folds:
        note += f" {metric.remark} Differences and gains are within folds, and patients are resampled within them."
    if metric.count == "minority":
        note += " Minority: patients outside the largest class."
    return PageTable(
        f"results-{series.key}",
        f"{capital(metric.title)} of every encoder in every group.",
        (*header, "p", "p, Holm", "Relative gain (95 % CI)"),
        tuple(rows),
        frame.assign(fraction=series.fraction, mode=series.mode, tag=series.tag),
        note,
    )


def _cells(row: dict[Hashable, object], metric: Metric) -> Row:
    best = row["encoder"] == row["baseline"]
    gap, gain = estimate_of(row, "difference"), estimate_of(row, "gain")
    tested = not pd.isna(row["p"])  # type: ignore[call-overload]
    nothing = not row["baseline"] or best
    return Row(
        (
            ENCODERS[str(row["encoder"])].title,
            str(row["n"]),
            str(row[metric.count]),
            interval(estimate_of(row, metric.name)),
            *([interval(estimate_of(row, ACROSS_FOLDS[0]))] if metric.within_folds else []),
            ("best baseline" if best else "\N{EN DASH}") if nothing else signed(gap),
            p_value(float(row["p"])) if tested else "\N{EN DASH}",  # type: ignore[arg-type]
            p_value(float(row["p_holm"])) if tested else "\N{EN DASH}",  # type: ignore[arg-type]
            "\N{EN DASH}" if nothing else percent_signed(gain),
        )
    )


def estimate_of(row: dict[Hashable, object], name: str) -> Estimate:
    """A value of a row with its interval: `<name>_low`, `<name>_high`, `<name>_interval`, or without the name."""
    prefix = f"{name}_" if f"{name}_low" in row else ""
    value, low, high = (float(row[key]) for key in (name, f"{prefix}low", f"{prefix}high"))  # type: ignore[arg-type]
    return Estimate(value, low, high, interval=str(row[f"{prefix}interval"]))
