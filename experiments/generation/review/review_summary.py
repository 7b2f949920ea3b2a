"""What the ratings say of each system, with intervals over patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd

from datamodules.errors import DataError
from datamodules.reports.sides import KIDNEY
from experiments.generation.review.ratings import ERRORS, QUALITIES, Rating
from experiments.scores.results_table import marked, with_interval
from experiments.statistics.agreement import cohen_kappa
from experiments.statistics.bootstrap import bootstrap, mean_of
from experiments.statistics.estimate import Estimate, undefined

MEASURES = {
    "quality": f"quality, {QUALITIES[0]} to {QUALITIES[-1]}",
    "errors": "with significant errors",
    "major": "with major errors",
}


def finished_ratings(ratings: Sequence[Rating], systems: Sequence[str]) -> pd.DataFrame:
    """The ratings of kidneys that a reviewer finished, so that every system is seen on the same ones.

    Returns:
        The fields of `Rating`, and `errors` and `major` as 0 or 1; a row a rating.
    """
    columns = [*Rating.__dataclass_fields__]
    frame = pd.DataFrame([asdict(rating) for rating in ratings if rating.complete], columns=columns)
    frame = frame[frame["system"].isin(systems)]
    whole = frame.groupby(["reviewer", *KIDNEY])["system"].transform("nunique") == len(systems)
    grade = frame["errors"].map(ERRORS.index)
    frame = frame.assign(grade=grade, errors=(grade > 0).astype(float), major=(grade > 1).astype(float))
    return frame[whole.astype(bool)].reset_index(drop=True)


def summary_table(ratings: pd.DataFrame, replicates: int = 2000) -> pd.DataFrame:
    """Every measure of every system: reviewers are averaged within a kidney, patients are resampled.

    Args:
        ratings: As `finished_ratings` gives them.
        replicates: Bootstrap replicates.

    Returns:
        system, measure, value, low, high (95 % interval), interval (its method), n (patients), kidneys,
        reviewers, ratings, and `marks_visible`, the share of ratings before which the facts were marked.

    Raises:
        DataError: if nothing is finished.
    """
    if ratings.empty:
        raise DataError("No kidney has all of its reports rated yet; there is nothing to summarise.")
    rows = []
    for system, own in ratings.groupby("system", sort=True):
        kidneys = own.groupby(KIDNEY)[list(MEASURES)].mean().reset_index()
        owner, people = pd.factorize(kidneys["patient_id"])
        for measure in MEASURES:
            values = kidneys[measure].to_numpy(dtype=float)
            lowest, highest = (QUALITIES[0], QUALITIES[-1]) if measure == "quality" else (0, 1)
            found, _ = bootstrap(mean_of(values, lowest, highest, owner), len(people), replicates)
            rows.append(
                {"system": system, "measure": measure, "value": found.value, "low": found.low, "high": found.high}
                | {
                    "interval": found.interval,
                    "n": len(people),
                    "kidneys": len(kidneys),
                    "reviewers": own["reviewer"].nunique(),
                }
                | {"ratings": len(own), "marks_visible": float(own["marks_visible"].mean())}
            )
    return pd.DataFrame(rows)


def agreement_table(ratings: pd.DataFrame, replicates: int = 2000) -> pd.DataFrame:
    """Quadratic kappa of quality and of errors for every two reviewers, on the reports that both rated.

    Returns:
        first, second, scale, kappa, low, high (95 % interval over patients), interval (its method), n (patients),
        reports; empty for one reviewer.
    """
    rows = []
    names = sorted(ratings["reviewer"].unique())
    for first, second in ((a, b) for place, a in enumerate(names) for b in names[place + 1 :]):
        own, other = (ratings[ratings["reviewer"] == name] for name in (first, second))
        both = own.merge(other, on=[*KIDNEY, "system"], suffixes=("", "_other"))
        for scale, lowest, classes in (("quality", QUALITIES[0], len(QUALITIES)), ("grade", 0, len(ERRORS))):
            found = _kappa(both, scale, lowest, classes, replicates)
            rows.append(
                {"first": first, "second": second, "scale": "errors" if scale == "grade" else scale}
                | {"kappa": found.value, "low": found.low, "high": found.high, "interval": found.interval}
                | {"n": found.n, "reports": len(both)}
            )
    return pd.DataFrame(rows)


def _kappa(both: pd.DataFrame, scale: str, lowest: int, classes: int, replicates: int) -> Estimate:
    if both.empty:
        return undefined(0, None, "no report was rated by both")
    owner, people = pd.factorize(both["patient_id"])
    first, second = (both[name].to_numpy(dtype=int) - lowest for name in (scale, f"{scale}_other"))
    return bootstrap(cohen_kappa(first, second, classes, owner), len(people), replicates)[0]


def format_summary(table: pd.DataFrame, agreement: pd.DataFrame, titles: dict[str, str]) -> str:
    """Both tables as fixed-width text: a line a system."""
    first = table.iloc[0]
    lines = [
        f"{first['n']} patients, {first['kidneys']} kidneys, {first['reviewers']} reviewers; facts were marked in "
        f"{table['marks_visible'].mean():.0%} of the ratings; value (95 % interval over patients)",
        f"{'':52s}" + "".join(f"{title:>26s}" for title in MEASURES.values()),
    ]
    for system, rows in table.groupby("system", sort=False):
        cells = [
            with_interval(row["value"], row["low"], row["high"], row["interval"]) for row in rows.to_dict("records")
        ]
        lines.append(f"{titles.get(str(system), str(system)):52s}" + "".join(f"{cell:>26s}" for cell in cells))
    for row in agreement.to_dict("records"):
        kappa = with_interval(row["kappa"], row["low"], row["high"], row["interval"])
        lines.append(
            f"Agreement of {row['first']} and {row['second']} on {row['scale']}: quadratic kappa {kappa}, n {row['n']} "
            f"patients, {row['reports']} reports"
        )
    return "\n".join([*lines, *marked(pd.concat([table, agreement]))])
