"""Whom weights have seen in training: their own training patients, and those of everything that they started from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.cohort.identity import TEXTS, VOLUMES, DataIdentity
from datamodules.errors import DataError
from datamodules.files import read_parquet, write_parquet

FORMAT = 1
TRAINING_DATA = "training_data.parquet"
"""The file that lies in the folder of a run and beside exported weights."""
NO_VOLUME = -1
HELD_OUT = ("val", "test")
_HEADER = "renal_training_data"
_NAMED = 3


@dataclass(frozen=True)
class TrainedOn:
    """The training patients of some weights.

    Patients are digests of their pseudonyms with a public key (`datamodules.cohort.identity.digests` says what that
    hides and what not), so that those of two cohorts can be compared. Volumes are the CRC-32 of their voxels as stored,
    which the index of a volume set holds; they find a scan under another pseudonym where both sets follow one contract.

    Args:
        rows: One row per patient and volume: `patient` and `volume`, which is -1 for a patient without.
        unknown: Sources of which nobody has a list: published weights, a corpus of texts.
        command: What trains the weights again, for messages.
    """

    rows: pd.DataFrame
    unknown: tuple[str, ...] = ()
    command: str = ""

    @classmethod
    def nobody(cls, unknown: Iterable[str] = ()) -> TrainedOn:
        """Weights that saw no known patient.

        Args:
            unknown: Sources of which nobody has a list.
        """
        empty = pd.DataFrame({"patient": np.empty(0, np.int64), "volume": np.empty(0, np.int64)})
        return cls(empty, tuple(unknown))

    @classmethod
    def of(cls, identity: DataIdentity, command: str = "") -> TrainedOn:
        """The training patients of a run. Those that it selects on are not trained on.

        Args:
            identity: What the run used.
            command: What trains it again.
        """
        used = identity.rows[identity.rows["part"] == "train"]
        people = used.loc[used["patient"] != 0, "patient"].unique()
        seen = used.loc[used["kind"] == VOLUMES, ["patient", "value"]].rename(columns={"value": "volume"})
        without = np.setdiff1d(people, seen["patient"])
        rows = pd.concat([seen, pd.DataFrame({"patient": without, "volume": NO_VOLUME})], ignore_index=True)
        return cls(_sorted(rows), ("a corpus",) if (used["kind"] == TEXTS).any() else (), command)

    def joined(self, others: Iterable[TrainedOn]) -> TrainedOn:
        """With those of what the weights started from."""
        every = [self, *others]
        unknown = tuple(dict.fromkeys(name for one in every for name in one.unknown))
        return TrainedOn(_sorted(pd.concat([one.rows for one in every], ignore_index=True)), unknown, self.command)

    @cached_property
    def patients(self) -> np.ndarray:
        """Their digests, int64 [N], rising and each once."""
        found: np.ndarray = np.unique(self.rows["patient"].to_numpy(dtype=np.int64))
        return found

    @cached_property
    def sha256(self) -> str:
        """Hash of patients, volumes and unknown sources."""
        digest = hashlib.sha256(json.dumps([FORMAT, sorted(self.unknown)]).encode())
        digest.update(self.rows[["patient", "volume"]].to_numpy(dtype="<i8").tobytes())
        return digest.hexdigest()

    @property
    def words(self) -> str:
        """How many they are, for a tag."""
        known = f"{len(self.patients)} known patients"
        return f"{known}, unknown: {', '.join(self.unknown)}" if self.unknown else known

    def seen(self, identity: DataIdentity, parts: Sequence[str] = HELD_OUT) -> tuple[list[str], list[str]]:
        """Patients of some parts of a run that the weights were trained on.

        A patient is found by the pseudonym, or by two volumes that are those of one training patient (by one where they
        have only one): CRC-32 has 32 bits, so that among tens of thousands of volumes single ones agree by chance.

        Args:
            identity: What the run uses.
            parts: The parts.

        Returns:
            Their pseudonyms, sorted: those found by it, and those found by their volumes under another one.
        """
        own = identity.parts[identity.parts.isin(parts)]
        named = own.index[own.index.isin(self.patients)]
        rows = identity.rows
        rows = rows[(rows["kind"] == VOLUMES) & rows["part"].isin(parts) & ~rows["patient"].isin(named)]
        volumes = rows[["patient", "value"]].drop_duplicates()
        theirs = self.rows[self.rows["volume"] != NO_VOLUME].rename(columns={"patient": "trained"})
        pairs = volumes.merge(theirs, left_on="value", right_on="volume")
        shared = pairs.groupby(["patient", "trained"])["value"].nunique()
        needed = volumes.groupby("patient")["value"].nunique().clip(upper=2)
        enough = shared[shared.to_numpy() >= needed.reindex(shared.index.get_level_values("patient")).to_numpy()]
        by_volume = set(enough.index.get_level_values("patient"))
        return _pseudonyms(identity, named), _pseudonyms(identity, by_volume)

    def refuse_seen(self, identity: DataIdentity, what: str, parts: Sequence[str] = HELD_OUT) -> None:
        """Refuse weights that were trained on who is to be selected on or tested.

        Args:
            identity: What the run uses.
            what: What the weights are, to begin a sentence with.
            parts: The parts that must not have been seen.

        Raises:
            DataError: naming how many patients, the first of them, and what to run.
        """
        named, hidden = self.seen(identity, parts)
        if not named and not hidden:
            return
        count = int(identity.parts.isin(parts).sum())
        other = f", {len(hidden)} of them under other pseudonyms, found by their volumes" if hidden else ""
        found = [*named, *hidden]
        more = ", ..." if len(found) > _NAMED else ""
        again = f" (`{self.command}`)" if self.command else ""
        whose = " and ".join(_WORDS[part] for part in parts)
        raise DataError(
            f"{what} was trained on {len(found)} of the {count} {whose} patients of this run "
            f"({', '.join(found[:_NAMED])}{more}{other}), who would be no test of it. Train it anew on this cohort and "
            f"split{again}, under a TAG= of its own or after its folder is deleted, and use that."
        )

    def write(self, folder: Path) -> str:
        """Write it into a folder, atomically.

        Returns:
            Its hash.
        """
        header = {"format": FORMAT, "unknown": list(self.unknown), "command": self.command, "sha256": self.sha256}
        write_parquet(folder / TRAINING_DATA, self.rows[["patient", "volume"]], {_HEADER: json.dumps(header)})
        return self.sha256

    @classmethod
    def read(cls, folder: Path) -> TrainedOn:
        """Read what `write` wrote.

        Raises:
            DataError: if the file is damaged or of another format.
        """
        frame, metadata = read_parquet(folder / TRAINING_DATA)
        header = json.loads(metadata.get(_HEADER, "{}"))
        if header.get("format") != FORMAT:
            raise DataError(
                f"{TRAINING_DATA} in {folder.name} has format {header.get('format')} and this code reads format "
                f"{FORMAT}; train these weights again."
            )
        found = cls(frame.astype(np.int64), tuple(header["unknown"]), header["command"])
        if found.sha256 != header["sha256"]:
            raise DataError(
                f"{TRAINING_DATA} in {folder.name} does not have the hash that its header says; it was changed. Train "
                "these weights again."
            )
        return found


_WORDS = {"train": "training", "val": "validation", "test": "test"}


def _sorted(rows: pd.DataFrame) -> pd.DataFrame:
    unique = rows[["patient", "volume"]].astype(np.int64).drop_duplicates()
    return unique.sort_values(["patient", "volume"], ignore_index=True)


def _pseudonyms(identity: DataIdentity, patients: Iterable[int]) -> list[str]:
    return sorted(identity.names[int(patient)] for patient in patients)
