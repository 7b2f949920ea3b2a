"""`make benchmarks BENCH=statistics`: all replicates of a bootstrap at once, against a loop over a library.

The loop calls scikit-learn's `roc_auc_score` or scikit-survival's C-index on the patients of each replicate, which is
how such intervals are usually computed. It is measured on some replicates, side by side with the whole
vectorised bootstrap in every round, and extrapolated to all: its time is proportional to their number. Neither side
counts the draw of the patients, which is timed apart. On the replicates of the loop both give the same numbers, or the
benchmark stops.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from sklearn import __version__ as sklearn_version
from sklearn.metrics import roc_auc_score

from datamodules.errors import DataError
from datamodules.files import write_json
from experiments.benchmarks.machine import describe_machine, load_average
from experiments.benchmarks.timing import interleaved
from experiments.runs.console import progress_bar
from experiments.statistics.auroc import auroc_statistic
from experiments.statistics.bootstrap import Statistic, patient_weights
from experiments.statistics.concordance import harrell, uno

RESULTS = Path(__file__).parent / "results" / "statistics.json"
TAU_MONTHS = 60.0


class Contest(NamedTuple):
    """A statistic, the library's function of the indices of resampled patients, and the replicates looped over."""

    vectorised: Statistic
    library: Callable[[np.ndarray], float]
    looped: int


def run(quick: bool = False, out: Path | None = None) -> dict[str, Any]:
    """Measure the bootstrap of AUC and C-index on random patients with ties and censoring.

    Args:
        quick: Few replicates of few patients, for a look.
        out: File for the figures. By default the published results, or `runs/benchmarks/statistics.json` for a quick
            run, which is not to be published.

    Returns:
        Every figure, as plain data.

    Raises:
        DataError: if both sides do not give the same numbers.
    """
    out = out or (Path("runs/benchmarks/statistics.json") if quick else RESULTS)
    patients, replicates, rounds = (200, 500, 2) if quick else (2000, 10_000, 3)
    results: dict[str, Any] = {
        "what": "bootstrap of random patients with tied scores, tied times and censoring",
        "date": datetime.now(UTC).date().isoformat(),
        "quick": quick,
        "machine": describe_machine()
        | {"scikit-learn": sklearn_version, "scikit-survival": version("scikit-survival")},
        "patients": patients,
        "replicates": replicates,
        "rounds": rounds,
    }
    console = Console()
    entrants = contests(patients, 5 if quick else 25)
    with progress_bar(console) as progress:
        task = progress.add_task("statistics benchmark", total=len(entrants) + 1)
        results["draw_seconds"] = _draw_seconds(patients, replicates, rounds)
        progress.advance(task)
        results["statistics"] = {}
        for name, contest in entrants.items():
            results["statistics"][name] = measure(contest, patients, replicates, rounds)
            progress.advance(task)
    results["load_average_at_the_end"] = load_average()
    write_json(out, results)
    console.print(_table(results))
    return results


def contests(patients: int, looped: int, seed: int = 0) -> dict[str, Contest]:
    """AUC, Harrell's and Uno's C-index of random patients; scikit-learn, being faster, loops ten times as often."""
    # GPL-3, of the `dev` extra: what is compared with, and no part of the suite.
    from sksurv.metrics import concordance_index_censored, concordance_index_ipcw
    from sksurv.util import Surv

    rng = np.random.default_rng(seed)
    risk = np.round(rng.normal(size=patients), 2)
    onset, censoring = rng.exponential(60 * np.exp(-0.7 * risk)), rng.uniform(6, 120, patients)
    time, event = np.round(np.minimum(onset, censoring), 1), onset <= censoring
    # A tenth later than the event times around it: where both fall together scikit-survival weighs otherwise than R.
    time = np.where(event, time, time + 0.05)
    target = rng.random(patients) < 1 / (1 + np.exp(-risk))

    def uno_of(rows: np.ndarray) -> float:
        survival = Surv.from_arrays(event[rows], time[rows])
        return float(concordance_index_ipcw(survival, survival, risk[rows], TAU_MONTHS)[0])

    return {
        "AUC": Contest(
            auroc_statistic(target, risk),
            lambda rows: float(roc_auc_score(target[rows], risk[rows])),
            10 * looped,
        ),
        "C-index, Harrell": Contest(
            harrell(time, event, risk),
            lambda rows: float(concordance_index_censored(event[rows], time[rows], risk[rows])[0]),
            looped,
        ),
        "C-index, Uno, censoring estimated in each replicate": Contest(
            uno(time, event, risk, TAU_MONTHS), uno_of, looped
        ),
    }


def measure(contest: Contest, patients: int, replicates: int, rounds: int) -> dict[str, Any]:
    """Seconds of both sides for all replicates, and how many times as fast the vectorised one is.

    Returns:
        Figures: medians over rounds of the seconds (`loop_seconds` extrapolated), the median, smallest and largest of
        the ratios within a round, by clock and by processor, and the largest difference of a value.

    Raises:
        DataError: if a replicate differs by more than 1e-9.
    """
    weights = patient_weights(patients, replicates, seed=1)
    rows = [np.repeat(np.arange(patients), row.astype(int)) for row in weights[: contest.looped]]
    difference = _largest_difference(contest, weights[: contest.looped], rows)
    times = interleaved(
        {
            "vectorised": lambda: contest.vectorised(weights),
            "loop": lambda: [contest.library(row) for row in rows],
        },
        rounds,
    )
    scale = replicates / contest.looped
    ratios = [[scale * round_["loop"][kind] / round_["vectorised"][kind] for round_ in times] for kind in (0, 1)]
    return {
        "vectorised_seconds": statistics.median(round_["vectorised"][0] for round_ in times),
        "loop_seconds_extrapolated": scale * statistics.median(round_["loop"][0] for round_ in times),
        "replicates_looped": contest.looped,
        "ratio": statistics.median(ratios[0]),
        "ratio_range": [min(ratios[0]), max(ratios[0])],
        "ratio_processor": statistics.median(ratios[1]),
        "largest_difference": difference,
    }


def _largest_difference(contest: Contest, weights: np.ndarray, rows: list[np.ndarray]) -> float:
    expected = np.array([contest.library(row) for row in rows])
    difference = float(np.abs(contest.vectorised(weights) - expected).max())
    if not difference <= 1e-9:
        raise DataError(f"The vectorised bootstrap differs from the library's loop by {difference}; expected rounding.")
    return difference


def _draw_seconds(patients: int, replicates: int, rounds: int) -> float:
    draw = patient_weights.__wrapped__  # past the kept draw
    times = interleaved({"draw": lambda: draw(patients, replicates, 1)}, rounds)
    return statistics.median(round_["draw"][0] for round_ in times)


def _table(results: dict[str, Any]) -> Table:
    machine = results["machine"]
    table = Table(
        title=f"{results['replicates']} replicates of {results['patients']} patients ({machine['cpu']}, "
        f"{machine['cores']} cores, load {machine['load_average']})",
        caption=f"Drawing the patients: {results['draw_seconds']:.2f} s more, once for all statistics. The loop is "
        "measured on some replicates and extrapolated.",
        box=box.SIMPLE,
    )
    table.add_column("statistic")
    for title in ("vectorised s", "loop s", "times", "range", "x CPU"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, row in results["statistics"].items():
        low, high = row["ratio_range"]
        table.add_row(
            name,
            f"{row['vectorised_seconds']:.2f}",
            f"{row['loop_seconds_extrapolated']:.0f}",
            f"{row['ratio']:.0f}",
            f"{low:.0f} to {high:.0f}",
            f"{row['ratio_processor']:.0f}",
        )
    return table
