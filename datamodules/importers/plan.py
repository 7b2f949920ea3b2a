"""How an imported cohort is evaluated: its name, the roles of its centres, and its splits or folds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from datamodules.cohort.cohort import CohortInfo, Evaluation
from datamodules.cohort.columns import ROLES
from datamodules.cohort.splits import assign_folds, assign_splits, check_folds
from datamodules.cohort.tables import TABLES
from datamodules.errors import DataError
from datamodules.files import read_parquet
from datamodules.names import check_name


@dataclass(frozen=True)
class CohortPlan:
    """What the user decides about a cohort that no scan can say.

    Args:
        name: Short name of the cohort, used for MLflow experiments and run folders.
        evaluation: `roles` when every centre is for pretraining, internal or external; `folds` when the cohort is
            too small for that and every patient is tested once, whole centres together.
        outcome: Column of `patients` that folds balance.
        seed: Seed of the splits.
        folds: Number of folds, for `evaluation="folds"`.
        roles: Role of each centre (pretrain, internal, external); a manifest may state them instead.
        default_role: Role of a centre that `roles` does not name.
        earlier: Folder of an earlier cohort of the same patients. Whoever was in it keeps split or fold, whatever the
            new one holds besides; pseudonyms are the same under the same private folder.

    Raises:
        DataError: if a role is unknown, folds are fewer than three, or the outcome is no column of `patients`.
    """

    name: str
    evaluation: Evaluation = "roles"
    outcome: str = "malignancy"
    seed: int = 42
    folds: int = 5
    roles: Mapping[str, str] = field(default_factory=dict)
    default_role: str = "internal"
    earlier: Path | None = None

    def __post_init__(self) -> None:
        check_name("The cohort's name", self.name)
        wrong = sorted({role for role in (*self.roles.values(), self.default_role) if role not in ROLES})
        if wrong:
            raise DataError(f"Role {wrong[0]!r} was asked for; expected one of {', '.join(ROLES)}.")
        check_folds(self.folds)
        columns = [column.name for column in TABLES["patients"].columns]
        if self.outcome not in columns:
            raise DataError(f"Outcome {self.outcome!r} is no column of patients; expected one of {', '.join(columns)}.")

    @property
    def settings(self) -> dict[str, Any]:
        """What changes a cohort, for the fingerprint of its source; without what was left out that came later."""
        return {name: value for name, value in asdict(self).items() if name != "earlier" or value is not None}

    def info(
        self, source: str, details: dict[str, Any], intensity: Literal["acquired", "rendered"] = "acquired"
    ) -> CohortInfo:
        """What `cohort.json` says of the cohort."""
        return CohortInfo(
            name=self.name,
            evaluation=self.evaluation,
            intensity=intensity,
            source=source,
            seed=self.seed,
            details=details,
        )

    def finish(
        self, tables: dict[str, pd.DataFrame], roles: Mapping[str, str] | None = None
    ) -> dict[str, pd.DataFrame]:
        """Add `centers` and `splits` to the tables of the imported patients.

        Args:
            tables: At least `patients`, and `splits` where an earlier build of this cohort stored them.
            roles: Roles that the source states, which `self.roles` overrides.

        Raises:
            DataError: if there are fewer centres than folds, or the earlier cohort has no splits.
        """
        patients = tables["patients"].copy()
        if self.outcome not in patients:
            patients[self.outcome] = pd.NA
        stated = {**(roles or {}), **self.roles}
        stored = tables["splits"] if "splits" in tables else self._earlier()
        names = sorted(patients["center"].unique())
        centers = pd.DataFrame({"center": names, "role": [stated.get(name, self.default_role) for name in names]})
        if self.evaluation == "folds":
            splits = assign_folds(patients, patients["center"], self.outcome, self.seed, self.folds, stored)
        else:
            splits = assign_splits(patients, centers, self.seed, stored)
        return {**tables, "centers": centers, "splits": splits}

    def _earlier(self) -> pd.DataFrame | None:
        if self.earlier is None:
            return None
        path = Path(self.earlier) / "splits.parquet"
        if not path.is_file():
            raise DataError(
                f"The earlier cohort {path.parent.name} holds no splits.parquet; name the folder of a finished cohort."
            )
        return read_parquet(path)[0]
