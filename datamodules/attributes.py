"""The DataModule of attribute pretraining: both kidneys of every patient, with what their reports state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from datamodules.anatomy.targets import ANATOMY, NO_MASK, OTHER_OR_SINUS, AnatomyLabels
from datamodules.base import VolumeDataModule
from datamodules.batch import MISSING, RoiBatch
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.identity import ATTRIBUTES, MASKS, array_rows
from datamodules.cohort.study_times import rows_before_treatment
from datamodules.errors import DataError
from datamodules.loading.samples import Plan
from datamodules.reports.schema import AttributeSchema, load_schema
from datamodules.volumes.shards import VolumeSet

_KEYS = ["patient_id", "study_id", "side"]


class AttributeDataModule(VolumeDataModule):
    """Streams both kidneys of every patient, before treatment, with the attributes that the reports state of them.

    It trains and selects on the pretraining centres and tests on all others, whose patients this stage never sees; of
    a cohort with folds it trains on all folds but one. A kidney of which nothing is stated is left out.

    Args:
        root: Folder of the cohort.
        attributes: Attributes to learn; all of the schema when left out.
        certain_only: Whether values that the report hedges count as not stated.
        anatomy: Whether samples hold the kidney's mask as classes of `datamodules.anatomy.targets.ANATOMY`; a kidney
            without a mask then has none known.
        options: As `VolumeDataModule`.
    """

    def __init__(
        self,
        root: Path,
        attributes: list[str] | None = None,
        certain_only: bool = False,
        anatomy: bool = False,
        **options: Any,
    ) -> None:
        self.schema = load_schema()
        self.attributes, self.certain_only, self.anatomy = attributes, certain_only, anatomy
        for name in attributes or ():
            _ = self.schema[name]
        super().__init__(root, **options)

    def described(self) -> dict[str, Any]:
        """The attributes and the schema they are of."""
        return {
            "attributes": list(self.attributes or self.schema.names),
            "attribute_schema": self.schema.hash,
            "certain_only": self.certain_only,
            **({"anatomy": True} if self.anatomy else {}),
        }

    def select(self, cohort: Cohort, volumes: VolumeSet) -> Plan:
        """Kidneys with at least one stated attribute.

        Raises:
            DataError: if the cohort has no attribute table, or nothing is stated of any kidney to train on.
        """
        if "attributes" not in cohort.tables:
            raise DataError(
                f"Cohort {cohort.info.name} has no attributes; run `make attributes DATA=` first, which reads them "
                "out of its reports."
            )
        patients = cohort.patients().reset_index(drop=True)
        parts = self.fold_parts(cohort, patients)
        if parts is None:
            parts = patients["split"].where(patients["role"] == "pretrain", "test")
        patients = patients.assign(part=parts)
        kidneys = rows_before_treatment(cohort, cohort["kidneys"][_KEYS])
        numbered = patients[["patient_id", "part"]].assign(row=range(len(patients)))
        kidneys = kidneys.merge(numbered, on="patient_id").sort_values(_KEYS).reset_index(drop=True)
        codes = attribute_codes(cohort["attributes"], kidneys, self.schema, self.attributes, self.certain_only)
        stated = (codes != MISSING).any(axis=1)
        kidneys, codes = kidneys[stated].reset_index(drop=True), codes[stated]
        if not (kidneys["part"] == "train").any():
            raise DataError(
                f"Nothing is stated of any kidney of the training part of cohort {cohort.info.name}; look at "
                "`make attributes` and at the roles of the centres."
            )
        keys = list(kidneys[_KEYS].astype(str).itertuples(index=False, name=None))
        drawn: dict[str, Callable[[int, int], torch.Tensor]] = (
            {"anatomy": AnatomyLabels(volumes, keys)} if self.anatomy else {}
        )
        return Plan(cohort, volumes, patients, kidneys, {"attributes": codes}, drawn)

    def on_after_batch_transfer(self, batch: RoiBatch, dataloader_idx: int) -> RoiBatch:
        """Augment the images, and take the masks along."""
        if "anatomy" in batch:
            codes = batch["anatomy"]
            training = self.trainer is not None and bool(self.trainer.training)
            batch["mask_known"] = (codes != NO_MASK).flatten(1).all(dim=1)
            batch["sinus_known"] = (codes != OTHER_OR_SINUS).flatten(1).all(dim=1)
            batch["anatomy"] = self.augmentation.follow(codes, len(ANATOMY), batch["seed"] if training else None)
        return super().on_after_batch_transfer(batch, dataloader_idx)

    def stated(self) -> Mapping[str, Sequence[bytes]]:
        """The attributes, and the masks where samples hold them."""
        found: dict[str, Sequence[bytes]] = {ATTRIBUTES: array_rows(self.plan.fields["attributes"])}
        if "anatomy" in self.plan.drawn:
            keys = list(self.plan.kidneys[_KEYS].astype(str).itertuples(index=False, name=None))
            masks = {name: self.plan.volumes.mask_checksums(name) for name in dict.fromkeys(key[0] for key in keys)}
            found[MASKS] = [str(masks[patient].get((study, side))).encode() for patient, study, side in keys]
        return found

    @property
    def class_counts(self) -> dict[str, dict[str, int]]:
        """Number of training kidneys by attribute and class, for the heads and their class weights."""
        codes = self.plan.fields["attributes"][(self.plan.kidneys["part"] == "train").to_numpy()]
        return {
            name: {value: int((codes[:, column] == code).sum()) for code, value in enumerate(self.schema.classes[name])}
            for column, name in enumerate(self.attributes or self.schema.names)
        }


def attribute_codes(
    table: pd.DataFrame,
    kidneys: pd.DataFrame,
    schema: AttributeSchema,
    names: list[str] | None = None,
    certain_only: bool = False,
) -> np.ndarray:
    """The attributes of kidneys as class indices.

    Args:
        table: Table `attributes` of a cohort, one row per kidney and stated attribute.
        kidneys: Rows with patient_id, study_id, side.
        schema: Attributes and classes.
        names: Attributes in the order of columns; all of the schema by default.
        certain_only: Whether hedged values count as not stated.

    Returns:
        int64 [kidneys, attributes], -100 where the report does not state it.

    Raises:
        DataError: if a value is not a class of its attribute.
    """
    names = list(names or schema.names)
    used = table[table["attribute"].isin(names)]
    if certain_only:
        used = used[~used["uncertain"].fillna(False).astype(bool)]
    number = {(name, value): code for name in names for code, value in enumerate(schema.classes[name])}
    stated = used[["attribute", "value"]].drop_duplicates().itertuples(index=False, name=None)
    strange = sorted(f"{name} = {value}" for name, value in stated if (name, value) not in number)
    if strange:
        raise DataError(
            f"attributes.parquet holds {strange[:3]}, which the schema (version {schema.version}) does not know; "
            "run `make attributes` again."
        )
    known = pd.DataFrame(
        [(name, value, names.index(name), code) for (name, value), code in number.items()],
        columns=["attribute", "value", "column", "code"],
    ).astype({"attribute": used["attribute"].dtype, "value": used["value"].dtype})
    places = kidneys[_KEYS].assign(row=np.arange(len(kidneys)))
    found = used[[*_KEYS, "attribute", "value"]].merge(places, on=_KEYS).merge(known, on=["attribute", "value"])
    codes = np.full((len(kidneys), len(names)), MISSING, dtype=np.int64)
    row, column, code = (found[name].to_numpy(dtype=np.int64) for name in ("row", "column", "code"))
    codes[row, column] = code
    return codes
