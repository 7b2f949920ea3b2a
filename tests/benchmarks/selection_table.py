"""The table of `selection_rules`: test AUC by rule with its spread over seeds, and what validation promised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from experiments.statistics.auroc import auroc_statistic
from experiments.statistics.bootstrap import Statistic, bootstrap, paired_difference, seed_mean

BEST_AUC, BEST_LOSS, LAST, EMA = "best by AUC", "best by loss", "last", "averaged"
_PARTS = {"validation": ("val", "internal"), "internal": ("test", "internal"), "external": ("test", "external")}


def selection_table(folder: Path) -> pd.DataFrame:
    """One row an encoder, share of the labels and rule.

    AUC of validation patients and of test patients of internal and external centres, mean and standard deviation over
    seeds, with n and positives; `low` and `high` of the external one over patients. `bias` is the AUC of the validation
    patients less that of the test patients of the same centres, with its standard error over seeds. `less_last` is the
    external AUC less that of the last weights, with a paired interval over patients and its deviation over seeds.

    Args:
        folder: Where `selection_rules` left its tables, of two seeds or more.
    """
    scores = pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))], ignore_index=True)
    rows: list[dict[str, object]] = []
    for (encoder, fraction), tables in scores.groupby(["encoder", "fraction"]):
        by_rule = {rule: _Systems(own) for rule, own in tables.groupby("rule")}
        for rule in (BEST_AUC, BEST_LOSS, LAST, EMA):
            own, last = by_rule[rule], by_rule[LAST]
            row: dict[str, object] = {"encoder": encoder, "fraction": fraction, "rule": rule}
            for part in _PARTS:
                value = own.values[part]
                row |= {part: value.mean(), f"{part}_sd": value.std(ddof=1)}
                row |= {f"{part}_n": own.patients[part], f"{part}_positive": own.positive[part]}
            estimate, _ = bootstrap(seed_mean(own.statistics["external"]), own.patients["external"])
            bias = own.values["validation"] - own.values["internal"]
            row |= {"low": estimate.low, "high": estimate.high}
            row |= {"bias": bias.mean(), "bias_se": bias.std(ddof=1) / np.sqrt(len(bias)), "seeds": len(bias)}
            if own is not last:
                less = paired_difference(
                    *(seed_mean(system.statistics["external"]) for system in (own, last)), own.patients["external"]
                ).estimate
                row |= {"less_last": less.value, "less_last_low": less.low, "less_last_high": less.high}
                row |= {"less_last_sd": (own.values["external"] - last.values["external"]).std(ddof=1)}
            rows.append(row)
    return pd.DataFrame(rows)


class _Systems:
    """One rule by part: AUC as a statistic of patients, one a seed, their values, patients and positives."""

    def __init__(self, scores: pd.DataFrame) -> None:
        self.statistics: dict[str, list[Statistic]] = {}
        self.values: dict[str, np.ndarray] = {}
        self.patients: dict[str, int] = {}
        self.positive: dict[str, int] = {}
        for name, (part, role) in _PARTS.items():
            own = scores[(scores["part"] == part) & (scores["role"] == role)].sort_values(["seed", "patient_id"])
            tables = [table for _, table in own.groupby("seed")]
            target = tables[0]["target"].to_numpy() == 1
            self.patients[name], self.positive[name] = len(target), int(target.sum())
            self.statistics[name] = [auroc_statistic(target, table["score"].to_numpy()) for table in tables]
            everybody = np.ones((1, len(target)), dtype=np.float32)
            self.values[name] = np.array([float(statistic(everybody)[0]) for statistic in self.statistics[name]])
