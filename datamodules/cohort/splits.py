"""Who is trained on, selected on and tested on: splits, folds, and the guard against leaks.

What is stored is kept. What is drawn follows a keyed hash of the patient or the site (module `keyed_order`), never a
place in a list, so that a cohort can grow, be relabelled or be drawn again without a leak.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd

from datamodules.cohort.keyed_order import keyed_order, keyed_units
from datamodules.errors import DataError, Finding

SPLIT_HASH = "renal_split_hash"
SHARES = {
    "pretrain": {"train": 0.85, "val": 0.15},
    "internal": {"train": 0.6, "val": 0.15, "test": 0.25},
    "external": {"test": 1.0},
}
"""Parts of the patients of a centre, by its role."""


def split_hash(splits: pd.DataFrame) -> str:
    """Twelve hexadecimal digits that name an assignment of patients, whatever the order of its rows."""
    rows = splits[["patient_id", "split", "fold"]].astype("string").fillna("").sort_values("patient_id")
    return hashlib.sha256(rows.to_csv(index=False).encode()).hexdigest()[:12]


def assign_splits(
    patients: pd.DataFrame, centers: pd.DataFrame, seed: int, stored: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Split the patients of every centre by its role.

    A patient's keyed hash is a number in [0, 1), which the shares of the role divide: internal patients below 0.6 are
    trained on, below 0.75 selected on, the others tested. Nothing else enters, so that in a cohort drawn anew with
    more patients, more centres or other labels everybody stays where they were. It cannot be had otherwise: if no
    patient who is added may move another, the part of each is the one that they would have alone. Balance is
    therefore that of independent draws, for the sizes of parts as for outcomes.

    One exception keeps small centres usable: a part that is due at least one patient of a centre and got none takes
    the one whose number is nearest, of the centre's largest part. That befalls 4 in 100 centres of 20 patients and
    none of 100 in practice; where such a centre grows and is drawn anew, that patient may move back.

    Args:
        patients: Columns patient_id and center.
        centers: Columns center and role.
        seed: Seed.
        stored: Splits of an earlier build, which are kept as they are where they suit the role.

    Returns:
        Table `splits`.
    """
    roles = dict(centers[["center", "role"]].itertuples(index=False, name=None))
    kept = {} if stored is None else dict(stored.dropna(subset=["split"])[["patient_id", "split"]].to_numpy().tolist())
    parts = []
    for center, group in patients.sort_values("patient_id").groupby("center", sort=True):
        shares = SHARES[roles[str(center)]]
        names = group["patient_id"].tolist()
        fixed = [kept[name] if kept.get(name) in shares else None for name in names]
        parts.append(pd.DataFrame({"patient_id": names, "split": _divided(names, fixed, shares, seed)}))
    table = pd.concat(parts, ignore_index=True)
    table["fold"] = pd.array([pd.NA] * len(table), dtype="Int64")
    return table


def _divided(names: list[str], fixed: list[str | None], shares: dict[str, float], seed: int) -> list[str]:
    """The part of every patient of one centre."""
    bounds = np.cumsum(list(shares.values()))[:-1]
    units = keyed_units(names, seed, "split")
    drawn = [list(shares)[place] for place in np.searchsorted(bounds, units, side="right")]
    split = [own if own is not None else new for own, new in zip(fixed, drawn, strict=True)]
    for part, share in sorted(shares.items(), key=lambda item: -item[1]):
        if part in split or round(share * len(names), 9) < 1:
            continue
        largest = max(shares, key=split.count)
        movable = [place for place, own in enumerate(fixed) if own is None and split[place] == largest]
        if len(movable) and split.count(largest) > 1:
            middle = sum(list(shares.values())[: list(shares).index(part)]) + share / 2
            split[min(movable, key=lambda place: (abs(units[place] - middle), names[place]))] = part
    return split


def assign_folds(
    patients: pd.DataFrame,
    sites: pd.Series,
    outcome: str,
    seed: int,
    folds: int = 5,
    stored: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Give every patient the fold in which it is tested; a site is never divided.

    Sites go one after another, the weightiest first and of equal ones by their keyed hash, to the fold that is emptiest
    of what they bring: patients, and patients of each outcome. Few sites of very unlike size cannot be balanced by
    hashes alone, so that folds drawn anew with one more site may differ: hand the stored ones over, and nobody moves.

    Args:
        patients: Columns patient_id and `outcome`.
        sites: Site of each patient, aligned with `patients`; the patients themselves where nothing ties two together.
        outcome: Column to balance over folds.
        seed: Seed.
        folds: Number of folds.
        stored: Splits of an earlier build. Its folds are kept, a new patient of a known site is tested where the site
            is, and only new sites are assigned.

    Returns:
        Table `splits` with `fold` set and `split` missing.

    Raises:
        DataError: if there are fewer than three folds, or fewer sites than folds.
    """
    check_folds(folds)
    if sites.nunique() < folds:
        raise DataError(f"{sites.nunique()} sites were found; expected at least {folds}, one for each fold.")
    label = patients[outcome].astype("string").fillna("")
    # Per site: patients of each outcome, and all patients, each as a share of the cohort's.
    counts = pd.crosstab(sites.to_numpy(), label.to_numpy())
    columns = np.column_stack([counts.to_numpy(dtype=float), counts.sum(axis=1).to_numpy(dtype=float)])
    shares = dict(zip(counts.index.tolist(), columns / columns.sum(axis=0), strict=True))
    known = _stored_folds(patients, sites, stored)
    filled = np.zeros((folds, columns.shape[1]))
    for site, fold in known.items():
        if fold < folds:
            filled[fold] += shares[site]
    new = [site for site in shares if site not in known]
    new = [new[place] for place in keyed_order(new, seed, "fold")]
    new.sort(key=lambda site: -round(float(shares[site].sum()), 12))  # stable: of equal ones the hash decides
    for number, site in enumerate(new):
        own = shares[site]
        cost = ((filled + own) ** 2 - filled**2).sum(axis=1)
        empty = filled.sum(axis=1) == 0
        if 0 < empty.sum() >= len(new) - number:  # the last sites fill the last empty folds
            cost[~empty] = np.inf
        known[site] = int(np.argmin(np.round(cost, 12)))
        filled[known[site]] += own
    table = pd.DataFrame({"patient_id": patients["patient_id"].to_numpy(), "split": pd.NA})
    table["fold"] = sites.map(known).to_numpy()
    return table.astype({"split": "string", "fold": "Int64"})


def check_folds(folds: int) -> None:
    """Refuse fewer than three folds: one is tested, one is selected on, and the others are trained on.

    Raises:
        DataError: if there are fewer.
    """
    if folds < 3:
        raise DataError(f"folds={folds} was asked for; expected at least 3: to train, to select and to test on.")


def _by_patient(stored: pd.DataFrame | None) -> dict[str, int]:
    if stored is None:
        return {}
    rows = stored.dropna(subset=["fold"])
    return dict(zip(rows["patient_id"], rows["fold"].astype(int), strict=True))


def _stored_folds(patients: pd.DataFrame, sites: pd.Series, stored: pd.DataFrame | None) -> dict[str, int]:
    """The fold of every site of which a patient has one."""
    own = patients["patient_id"].map(_by_patient(stored))
    known = pd.DataFrame({"site": sites.to_numpy(), "fold": own.to_numpy()}).dropna()
    several = known.groupby("site")["fold"].nunique()
    if (several > 1).any():
        raise DataError(
            f"Stored folds divide {int((several > 1).sum())} sites, the first is {several.index[several > 1][0]}; "
            "expected every site in one fold. Import the cohort again into another folder."
        )
    return {site: int(fold) for site, fold in known.drop_duplicates("site").itertuples(index=False, name=None)}


def split_of_fold(patients: pd.DataFrame, fold: int) -> pd.Series:
    """The split of each patient when `fold` is tested: test; val, which is the fold after it; and train.

    Folds are whole sites and balanced, and so is validation then. Every task and every stage of a run selects on the
    same patients, and whatever is added to other folds moves nobody.

    Args:
        patients: Column fold.
        fold: The fold to test.

    Returns:
        Splits aligned with `patients`.

    Raises:
        DataError: if there is no such fold, or fewer than three.
    """
    numbers = sorted(int(value) for value in patients["fold"].dropna().unique())
    if fold not in numbers:
        raise DataError(f"fold {fold} was asked for; the cohort has folds {numbers}.")
    if len(numbers) < 3:
        raise DataError(
            f"fold {fold}: patients of folds {numbers} are left; expected three folds at least, to train, to select "
            "and to test on."
        )
    following = numbers[(numbers.index(fold) + 1) % len(numbers)]
    split = pd.Series("train", index=patients.index, dtype="string")
    split[(patients["fold"] == fold).fillna(False).to_numpy(dtype=bool)] = "test"
    split[(patients["fold"] == following).fillna(False).to_numpy(dtype=bool)] = "val"
    return split


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
        suiting = pd.MultiIndex.from_tuples([(role, split) for role, shares in SHARES.items() for split in shares])
        wrong = joined[~pd.MultiIndex.from_frame(joined[["role", "split"]].astype(object)).isin(suiting)]
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
