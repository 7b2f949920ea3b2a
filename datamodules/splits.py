"""Who is trained on, selected on and tested on: splits, folds, label fractions, and the guard against leaks."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from datamodules.errors import DataError, Finding

SPLIT_HASH = "renal_split_hash"
FRACTIONS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.0)
MINIMUM_PER_CLASS = 3
MINIMUM_EVENTS = 5
INTERNAL_SHARES = {"train": 0.6, "val": 0.15, "test": 0.25}
PRETRAIN_SHARES = {"train": 0.85, "val": 0.15}


def split_hash(splits: pd.DataFrame) -> str:
    """Twelve hexadecimal digits that name an assignment of patients, whatever the order of its rows."""
    rows = splits[["patient_id", "split", "fold"]].astype("string").fillna("").sort_values("patient_id")
    return hashlib.sha256(rows.to_csv(index=False).encode()).hexdigest()[:12]


def _stratified_order(strata: list[tuple[str, ...]], rng: np.random.Generator) -> np.ndarray:
    """An order in which every prefix holds each stratum in proportion.

    Members of a stratum of n are spread at (i + u) / n with one offset u per stratum, so a prefix of any length is
    within one member of its share.
    """
    position = np.empty(len(strata))
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, stratum in enumerate(strata):
        groups.setdefault(stratum, []).append(index)
    for stratum in sorted(groups):
        members = rng.permutation(groups[stratum])
        position[members] = (np.arange(len(members)) + rng.uniform(0.0, 1.0)) / len(members)
    return np.argsort(position, kind="stable")


def assign_splits(patients: pd.DataFrame, centers: pd.DataFrame, outcome: str, seed: int) -> pd.DataFrame:
    """Split the patients of every centre by its role.

    Pretraining centres have train and val, internal centres train, val and test, external centres test only; within
    a centre the parts are stratified by `outcome`.

    Args:
        patients: Columns patient_id, center and `outcome`.
        centers: Columns center and role.
        outcome: Column to balance.
        seed: Seed.

    Returns:
        Table `splits`.
    """
    roles = dict(centers[["center", "role"]].itertuples(index=False, name=None))
    shares = {"pretrain": PRETRAIN_SHARES, "internal": INTERNAL_SHARES, "external": {"test": 1.0}}
    parts = []
    for number, (center, group) in enumerate(sorted(patients.groupby("center"), key=lambda item: str(item[0]))):
        group = group.sort_values("patient_id")
        rng = np.random.default_rng([seed, number])
        order = _stratified_order([(str(value),) for value in group[outcome].astype("string").fillna("")], rng)
        names, weights = zip(*shares[roles[str(center)]].items(), strict=True)
        bounds = np.round(np.cumsum(weights) * len(group)).astype(int)
        # A stratified order cut into blocks keeps each block stratified.
        split = np.empty(len(group), dtype=object)
        for name, start, stop in zip(names, [0, *bounds[:-1]], bounds, strict=True):
            split[order[start:stop]] = name
        parts.append(pd.DataFrame({"patient_id": group["patient_id"].to_numpy(), "split": split}))
    table = pd.concat(parts, ignore_index=True)
    table["fold"] = pd.array([pd.NA] * len(table), dtype="Int64")
    return table


def assign_folds(patients: pd.DataFrame, sites: pd.Series, outcome: str, seed: int, folds: int = 5) -> pd.DataFrame:
    """Give every patient the fold in which it is tested; a site is never divided.

    Args:
        patients: Columns patient_id and `outcome`.
        sites: Site of each patient, aligned with `patients`.
        outcome: Column to balance over folds.
        seed: Seed.
        folds: Number of folds.

    Returns:
        Table `splits` with `fold` set and `split` missing.

    Raises:
        DataError: if there are fewer sites than folds.
    """
    if sites.nunique() < folds:
        raise DataError(f"{sites.nunique()} sites were found; expected at least {folds}, one for each fold.")
    label = patients[outcome].astype("string").fillna("").to_numpy()
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    fold = np.zeros(len(patients), dtype=int)
    for number, (_, test) in enumerate(splitter.split(np.zeros(len(patients)), label, sites.to_numpy())):
        fold[test] = number
    table = pd.DataFrame({"patient_id": patients["patient_id"].to_numpy(), "split": pd.NA, "fold": fold})
    return table.astype({"split": "string", "fold": "Int64"})


def split_of_fold(
    patients: pd.DataFrame, fold: int, outcome: str, seed: int, validation_share: float = 0.15
) -> pd.Series:
    """The split of each patient when `fold` is tested: test, and train and val of the other folds.

    Args:
        patients: Columns patient_id, center, fold and `outcome`.
        fold: The fold to test.
        outcome: Column to balance.
        seed: Seed.
        validation_share: Wanted share of validation among the patients not tested.

    Returns:
        Splits aligned with `patients`.

    Raises:
        DataError: if there is no such fold.
    """
    numbers = sorted(int(value) for value in patients["fold"].dropna().unique())
    if fold not in numbers:
        raise DataError(f"fold {fold} was asked for; the cohort has folds {numbers}.")
    split = pd.Series("train", index=patients.index, dtype="string")
    tested = (patients["fold"] == fold).fillna(False).to_numpy(dtype=bool)
    split[tested] = "test"
    rest = patients[~tested]
    label = rest[outcome].astype("string").fillna("").to_numpy()
    # The centre of a cohort with folds is its site; where only one is known, patients stand for themselves.
    groups = rest["center"] if len(set(patients["center"])) > 1 else rest["patient_id"]
    parts = min(round(1 / validation_share), groups.nunique())
    if parts < 2:
        raise DataError(f"fold {fold}: the other folds hold one site; expected two, one of them for validation.")
    splitter = StratifiedGroupKFold(n_splits=parts, shuffle=True, random_state=seed + fold)
    _, validation = next(splitter.split(np.zeros(len(rest)), label, groups.to_numpy()))
    split[rest.index[validation]] = "val"
    return split


def label_order(patient_ids: list[str], outcomes: list[str], centers: list[str], seed: int, task: str) -> list[str]:
    """One seeded order of training patients whose prefixes are the label fractions of a task.

    Every prefix is stratified by outcome first and by centre within an outcome, so fractions are nested and small
    ones still hold both classes.

    Args:
        patient_ids: Training patients.
        outcomes: Class or event of each, as text.
        centers: Centre of each.
        seed: Seed of the run.
        task: Name of the task; two tasks have two orders.

    Returns:
        The patients in order.
    """
    entropy = int.from_bytes(hashlib.sha256(task.encode()).digest()[:8], "big")
    rng = np.random.default_rng([seed, entropy])
    index = sorted(range(len(patient_ids)), key=lambda position: patient_ids[position])
    within: list[tuple[float, int]] = []
    for outcome in sorted(set(outcomes)):
        members = [position for position in index if outcomes[position] == outcome]
        order = _stratified_order([(centers[position],) for position in members], rng)
        offset = rng.uniform(0.0, 1.0)
        within += [((rank + offset) / len(members), members[place]) for rank, place in enumerate(order)]
    return [patient_ids[position] for _, position in sorted(within)]


def label_fraction(order: list[str], outcomes: dict[str, str], fraction: float, *, survival: bool = False) -> list[str]:
    """The first `fraction` of the order.

    Args:
        order: What `label_order` returned.
        outcomes: Class, or event as '0' / '1', of each patient.
        fraction: Share of the training labels, in (0, 1].
        survival: Whether outcomes are events.

    Returns:
        The chosen patients; a smaller fraction is always a prefix of a larger one.

    Raises:
        DataError: if the fraction is out of range, or leaves fewer than 3 patients of a class or 5 events; the
            message names the smallest fraction that works.
    """
    if not 0.0 < fraction <= 1.0:
        raise DataError(
            f"FRACTION={fraction:g} was asked for; expected a share of the labels in (0, 1], for example 0.2."
        )
    # A product such as 0.1 * 70 is 7.000000000000001: rounded first, or one patient too many is taken.
    count = int(np.ceil(round(fraction * len(order), 9)))
    needed = _smallest_count(order, outcomes, survival)
    if needed is None:
        least = f"{MINIMUM_EVENTS} events" if survival else f"{MINIMUM_PER_CLASS} patients of each class"
        raise DataError(
            f"The training split holds {_tally(order, outcomes)}; expected at least {least} at FRACTION=1.0."
        )
    if count < needed:
        smallest = next((value for value in FRACTIONS if np.ceil(round(value * len(order), 9)) >= needed), 1.0)
        least = f"{MINIMUM_EVENTS} events" if survival else f"{MINIMUM_PER_CLASS} of each class"
        raise DataError(
            f"FRACTION={fraction:g} leaves {count} of {len(order)} training patients "
            f"({_tally(order[:count], outcomes)}); "
            f"expected at least {least}. The smallest fraction that works is {smallest:g}."
        )
    return order[:count]


def _tally(chosen: list[str], outcomes: dict[str, str]) -> str:
    values = [outcomes[patient] for patient in chosen]
    return ", ".join(f"{values.count(value)} of {value!r}" for value in sorted(set(outcomes.values())))


def _smallest_count(order: list[str], outcomes: dict[str, str], survival: bool) -> int | None:
    wanted = {"1": MINIMUM_EVENTS} if survival else dict.fromkeys(set(outcomes.values()), MINIMUM_PER_CLASS)
    if not survival and len(wanted) < 2:
        return None
    left = dict(wanted)
    for count, patient in enumerate(order, start=1):
        if outcomes[patient] in left:
            left[outcomes[patient]] -= 1
        if all(value <= 0 for value in left.values()):
            return count
    return None


def check_splits(tables: dict[str, pd.DataFrame], evaluation: str, stored_hash: str | None) -> list[Finding]:
    """Leaks and gaps in the assignment of patients, as findings.

    A patient with two splits stands twice in the table and is named here; so is one whose split does not suit the
    role of its centre, a centre without patients and a file edited after its hash was written.
    """
    splits, patients, centers = tables["splits"], tables["patients"], tables["centers"]
    findings: list[Finding] = []
    leaked = splits[splits["patient_id"].duplicated(keep=False)]
    for patient, group in list(leaked.groupby("patient_id"))[:5]:
        parts = ", ".join(map(str, group["split"].fillna(group["fold"].astype("string"))))
        findings.append(
            Finding("FAIL", f"patient {patient} is in several splits ({parts})", "splits.parquet", "one", "split again")
        )
    empty = sorted(set(centers["center"]) - set(patients["center"]))
    findings += [
        Finding("FAIL", f"centre {center} has no patients", "centers.parquet", "at least one", "drop the centre")
        for center in empty
    ]
    joined = patients[["patient_id", "center"]].merge(centers, on="center").merge(splits, on="patient_id", how="left")
    if evaluation == "folds":
        wrong = joined[joined["fold"].isna()]
        expected = "a fold"
    else:
        allowed = {"pretrain": {"train", "val"}, "internal": {"train", "val", "test"}, "external": {"test"}}
        fits = [
            not pd.isna(split) and split in allowed[role]
            for role, split in joined[["role", "split"]].itertuples(index=False, name=None)
        ]
        wrong = joined[~np.array(fits, dtype=bool)]
        expected = "a split of the centre's role (pretrain: train, val; internal: train, val, test; external: test)"
    for row in wrong.head(5).itertuples(index=False):
        found = f"patient {row.patient_id} of {row.role} centre {row.center} has split {row.split}, fold {row.fold}"
        findings.append(Finding("FAIL", found, "splits.parquet", expected, "split again"))
    if not leaked.empty:
        return findings
    if stored_hash is not None and stored_hash != split_hash(splits):
        findings.append(
            Finding(
                "FAIL",
                f"content has hash {split_hash(splits)}, its header says {stored_hash}",
                "splits.parquet",
                "a file written by this suite, so that the points of a curve share one split",
                "restore it or import the cohort again",
            )
        )
    return findings
