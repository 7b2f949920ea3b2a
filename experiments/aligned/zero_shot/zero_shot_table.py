"""The table and the figure of a zero-shot classification."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from datamodules.csv_files import write_csv
from datamodules.files import replacing
from experiments.aligned.zero_shot.prompt_scores import auroc_of_draws, draw_prompts
from experiments.scores.outcomes import fold_of
from experiments.scores.plots.style import words
from experiments.scores.results_table import Group, groups, marked
from experiments.statistics.auroc import macro_auroc_statistic
from experiments.statistics.bootstrap import bootstrap
from experiments.statistics.estimate import Estimate
from experiments.statistics.support import mark

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

MEAN, NEAREST, RANDOM, REPORTS = "mean prompt", "maximum similarity", "random prompts", "TF-IDF of reports"
FACTS = "prompts' attributes"
PREFIX = {MEAN: "score_", NEAREST: "max_", FACTS: "facts_", REPORTS: "tfidf_"}
"""Columns of the predictions, one per class."""
SPREAD = "5 to 95 % of random prompts"


@dataclass(frozen=True)
class ZeroShot:
    """What a zero-shot classification found.

    Args:
        predictions: One row per tested patient: patient_id, center, role, part, target, `fold` where there are folds,
            and a score per class and strategy under `PREFIX`; missing where a patient has no report, and all of those
            of `FACTS` where stage 1 has no heads for what the prompts state.
        logits: float [N, M], scaled similarity of each row and prompt, averaged over the patient's samples.
        code: int [M], class of every prompt.
        class_names: Names of the classes.
    """

    predictions: pd.DataFrame
    logits: np.ndarray
    code: np.ndarray
    class_names: list[str]

    def has(self, strategy: str) -> bool:
        """Whether there are scores of a strategy."""
        return f"{PREFIX[strategy]}{self.class_names[0]}" in self.predictions

    def scores(self, rows: pd.DataFrame, strategy: str) -> np.ndarray:
        """Scores [N, C] of a strategy; NaN where missing."""
        return rows[[f"{PREFIX[strategy]}{name}" for name in self.class_names]].to_numpy(dtype=float)


def zero_shot_table(found: ZeroShot, draws: int, seed: int, replicates: int = 2000) -> pd.DataFrame:
    """AUC of every strategy in every group; for more than two classes the mean one-vs-rest AUC.

    Where there are folds, each with a model of its own, the AUC is within them; that of single random prompts, whose
    spread alone matters, is of all folds together.

    Args:
        found: The predictions.
        draws: Random choices of one prompt per class.
        seed: Seed of the choices.
        replicates: Bootstrap replicates over patients.

    Returns:
        Columns group, kind, strategy, n, counts (patients by class), positives (of two classes), auroc, low, high,
        interval. Of random prompts `auroc` is the median, the ends are the 5th and 95th percentile over choices, and
        `interval` says so; of the others the interval is that of the patients, and `interval` names its method.
    """
    chosen = draw_prompts(found.code, draws, seed)
    rows = []
    for group in groups(found.predictions):
        target = group.rows["target"].to_numpy(dtype=int)
        folds = fold_of(group.rows)
        for strategy in (MEAN, NEAREST, *((FACTS,) if found.has(FACTS) else ())):
            estimate = _estimate(target, found.scores(group.rows, strategy), replicates, folds)
            rows.append(_row(found, group, strategy, target, estimate))
        values = auroc_of_draws(target, found.logits[group.rows.index.to_numpy()], chosen, 1.0)
        middle, low, high = np.percentile(values, [50, 5, 95]) if np.isfinite(values).all() else [np.nan] * 3
        spread = Estimate(float(middle), float(low), float(high), interval=SPREAD)
        rows.append(_row(found, group, RANDOM, target, spread))
        score = found.scores(group.rows, REPORTS)
        known = np.isfinite(score).all(axis=1)
        if known.any():
            estimate = _estimate(target[known], score[known], replicates, None if folds is None else folds[known])
            rows.append(_row(found, group, REPORTS, target[known], estimate))
    return pd.DataFrame(rows)


def _estimate(target: np.ndarray, score: np.ndarray, replicates: int, folds: np.ndarray | None) -> Estimate:
    return bootstrap(macro_auroc_statistic(target, score, folds), len(target), replicates, strata=folds)[0]


def _row(found: ZeroShot, group: Group, strategy: str, target: np.ndarray, estimate: Estimate) -> dict[str, object]:
    counts = np.bincount(target, minlength=len(found.class_names))
    return {
        "group": group.name,
        "kind": group.kind,
        "strategy": strategy,
        "n": len(target),
        "counts": ", ".join(f"{name} {count}" for name, count in zip(found.class_names, counts, strict=True)),
        "positives": int(counts[1]) if len(counts) == 2 else pd.NA,
        "auroc": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "interval": estimate.interval,
    }


def format_table(table: pd.DataFrame) -> str:
    """The results as fixed-width text."""
    lines = [f"{'':20s}{'':22s}{'n':>6s}{'AUC':>8s}  interval"]
    for row in table.to_dict("records"):
        value = "-" if np.isnan(row["auroc"]) else f"{row['auroc']:.3f}"
        interval = "not defined" if np.isnan(row["low"]) else f"{row['low']:.3f} to {row['high']:.3f}"
        interval += mark(row["interval"])
        kind = f" ({SPREAD})" if row["interval"] == SPREAD else ""
        lines.append(f"{row['group']:20s}{row['strategy']:22s}{row['n']:6d}{value:>8s}  {interval}{kind}")
    return "\n".join([*lines, *marked(table)])


def roc_figure(found: ZeroShot, table: pd.DataFrame, title: str, note: str) -> Figure:
    """ROC curves of the strategies, one panel for each large group; of several classes each against the rest."""
    shown = [group for group in groups(found.predictions) if group.kind != "external"]
    shown = shown or list(groups(found.predictions))[:2]
    figure, axes = plt.subplots(1, len(shown), figsize=(4.6 * len(shown), 6.6), layout="constrained", squeeze=False)
    figure.suptitle(f"{title}\n" + "\n".join(textwrap.wrap(note, 46 * len(shown))), fontsize=9)
    for axis, group in zip(axes[0], shown, strict=True):
        own = table[table["group"] == group.name]
        axis.plot([0, 1], [0, 1], color="0.8", linewidth=1)
        for label, rate, sensitivity, style in _curves(found, group, own):
            axis.plot(rate, sensitivity, label=label, **style)
        axis.set(xlabel="1 - specificity", ylabel="Sensitivity", aspect="equal", xlim=(0, 1), ylim=(0, 1.005))
        random = own[own["strategy"] == RANDOM].iloc[0]
        spread = f"random prompts: median {random['auroc']:.2f}, 5 to 95 % {random['low']:.2f} to {random['high']:.2f}"
        axis.set_title(f"{group.name}, n {len(group.rows)}\n{own['counts'].iloc[0]}\n{spread}", fontsize=8)
        _legend(axis)
    return figure


def _legend(axis: Axes) -> None:
    axis.legend(
        fontsize=8,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.14),
        frameon=False,
        title="AUC [95 % interval over patients]",
        title_fontsize=8,
    )


def _curves(
    found: ZeroShot, group: Group, table: pd.DataFrame
) -> Iterator[tuple[str, np.ndarray, np.ndarray, dict[str, object]]]:
    target = group.rows["target"].to_numpy(dtype=int)
    styles: dict[str, dict[str, object]] = {
        MEAN: {"linewidth": 2},
        NEAREST: {"linewidth": 1.2},
        FACTS: {"linewidth": 1.2, "linestyle": "-."},
        REPORTS: {"linewidth": 1, "linestyle": "--", "color": "0.4"},
    }
    for strategy, style in styles.items():
        rows = table[table["strategy"] == strategy]
        if rows.empty or np.isnan(rows["auroc"].iloc[0]):
            continue
        score = found.scores(group.rows, strategy)
        known = np.isfinite(score).all(axis=1)
        row = rows.iloc[0]
        figure = words(Estimate(row["auroc"], row["low"], row["high"], interval=row["interval"]))
        if len(found.class_names) == 2:
            rate, sensitivity, _ = roc_curve(target[known] == 1, score[known, 1])
            yield f"{strategy}: {figure}", rate, sensitivity, style
        elif strategy == MEAN:
            for number, name in enumerate(found.class_names):
                rate, sensitivity, _ = roc_curve(target[known] == number, score[known, number])
                label = f"{name} against the rest" + (f"; {strategy}, all: {figure}" if number == 0 else "")
                yield label, rate, sensitivity, style
        else:
            yield f"{strategy}, all classes: {figure}", np.array([]), np.array([]), style


def write_zero_shot(folder: Path, found: ZeroShot, table: pd.DataFrame, title: str, note: str) -> None:
    """Write `results.csv` and `roc.png` into a folder."""
    write_csv(folder / "results.csv", table)
    figure = roc_figure(found, table, title, note)
    with replacing(folder / "roc.png") as temporary:
        figure.savefig(temporary, format="png", dpi=150, bbox_inches="tight")
    plt.close(figure)
