"""What data a run really used: its patients with their parts, their labels, volumes, attributes and reports.

A record, not only a hash, so that a refusal can say what differs. It holds keyed digests and no pseudonym, text, label
or path.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datamodules.errors import DataError
from datamodules.files import read_parquet, write_parquet

FORMAT = 1
PARTS = ("train", "val", "test")
VOLUMES, MASKS, TEXTS = "volumes", "masks", "texts"
LABELS, ATTRIBUTES, REPORTS, CENTRES = "labels", "attributes", "reports", "centres"
_HEADER = "renal_data"
_NAMESPACE = "renal-suite/patient-data/1|"
_INTEGERS = ("patient", "kidney", "item", "value")


def digests(*columns: Iterable[Any]) -> np.ndarray:
    """A keyed digest of every row of some columns of text or bytes, int64 [N]: 64 bits of SHA-256.

    The key is public, so that a digest of one cohort, run or hospital can be compared with that of another without any
    of them showing the pseudonym. It hides a pseudonym from a reader, not from whoever has a list of pseudonyms to try:
    what is digested must be a pseudonym already, as the tables of a cohort hold them, and an export tells those who
    know the pseudonyms whom it was trained on. Of a million digests two agree by chance with a probability of 3e-8.

    Args:
        columns: Columns of equal length.
    """
    rows = zip(*columns, strict=True)
    found = [hashlib.sha256(_NAMESPACE.encode() + b"|".join(map(_bytes, row))).digest()[:8] for row in rows]
    return np.frombuffer(b"".join(found), dtype="<i8").astype(np.int64)


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def array_rows(*arrays: np.ndarray) -> list[bytes]:
    """The rows of arrays of equal length as bytes, for `digests`."""
    parts = [np.ascontiguousarray(array) for array in arrays]
    return [b"".join(part[row].tobytes() for part in parts) for row in range(len(parts[0]))]


@dataclass(frozen=True)
class DataIdentity:
    """What a run used.

    Args:
        rows: One row per thing used: `kind` (volumes, labels, reports, ...), `patient`, `part`, `kidney` (0 where it
            is of the patient), `item` (what of it, such as a series; 0 otherwise) and `value`, the digest of what it
            says, or the CRC-32 of a volume.
        contract: Hash of the preprocessing contract of the volumes; empty without.
        names: Pseudonyms by the digest of the patient, for messages; not stored.
    """

    rows: pd.DataFrame
    contract: str = ""
    names: Mapping[int, str] = field(default_factory=dict, compare=False)

    @cached_property
    def sha256(self) -> str:
        """Hash of all of it, whatever the order of its rows."""
        digest = hashlib.sha256(f"{FORMAT} {self.contract}".encode())
        part = self.rows["part"].map({name: code for code, name in enumerate(PARTS)}).to_numpy(dtype=np.int64)
        values = np.column_stack([part, self.rows[list(_INTEGERS)].to_numpy(dtype=np.int64)])
        kind = self.rows["kind"].to_numpy(dtype=object)
        for name in sorted(set(kind)):
            own = values[kind == name]
            digest.update(f"{name} {len(own)}".encode())
            digest.update(np.ascontiguousarray(own[np.lexsort(own.T[::-1])]).astype("<i8").tobytes())
        return digest.hexdigest()

    @cached_property
    def parts(self) -> pd.Series:
        """The part of every patient, by digest; the texts of a corpus are nobody's."""
        rows = self.rows.loc[self.rows["patient"] != 0, ["patient", "part"]].drop_duplicates()
        return rows.set_index("patient")["part"]

    def of(self, parts: Sequence[str]) -> DataIdentity:
        """Some of its parts: a run that tests nobody does not use the test."""
        kept = self.rows[self.rows["part"].isin(parts)].reset_index(drop=True)
        return DataIdentity(kept, self.contract, self.names)

    def known(self, kind: str, patient_ids: Iterable[Any], values: Iterable[Any]) -> DataIdentity:
        """With something more that is known of its patients, such as the columns of a table.

        Args:
            kind: What it is called in a refusal, in the plural.
            patient_ids: Patients; those that are not its own are left out.
            values: Text or bytes of each.
        """
        frame = pd.DataFrame({"patient": digests(patient_ids), "value": digests(values)})
        frame["part"] = frame["patient"].map(self.parts)
        frame = frame.dropna(subset=["part"]).assign(kind=kind, kidney=0, item=0)
        return DataIdentity(pd.concat([self.rows, frame], ignore_index=True), self.contract, self.names)

    def write(self, path: Path) -> None:
        """Write it, atomically."""
        header = {"format": FORMAT, "contract": self.contract, "sha256": self.sha256}
        frame = self.rows[["kind", "part", *_INTEGERS]].astype({"kind": "string", "part": "string"})
        write_parquet(path, frame, {_HEADER: json.dumps(header)})

    @classmethod
    def read(cls, path: Path) -> DataIdentity:
        """Read what `write` wrote.

        Raises:
            DataError: if the file is damaged or of another format.
        """
        frame, metadata = read_parquet(path)
        header = json.loads(metadata.get(_HEADER, "{}"))
        where = f"{path.name} in {path.parent.name}"
        if header.get("format") != FORMAT:
            raise DataError(
                f"{where} has format {header.get('format')} and this code reads format {FORMAT}; delete the folder and "
                "run its command again."
            )
        found = cls(frame.astype(dict.fromkeys(_INTEGERS, np.int64)), header["contract"])
        if found.sha256 != header["sha256"]:
            raise DataError(
                f"{where} does not have the hash that its header says; it was changed. Delete the folder and run its "
                "command again."
            )
        return found


def plan_identity(
    patients: pd.DataFrame,
    kidneys: pd.DataFrame,
    volumes: pd.DataFrame,
    contract: str,
    stated: Mapping[str, Sequence[bytes]],
) -> DataIdentity:
    """The identity of a plan of kidneys.

    Args:
        patients: patient_id, center, role, in the order that `row` of the kidneys counts.
        kidneys: patient_id, study_id, side, row and part (those of no part are left out).
        volumes: The volumes in use: patient_id, study_id, side, series_id, phase, crc32.
        contract: Hash of their contract.
        stated: What else is known of every kidney by its name in a refusal, in the order of `kidneys`; labels are
            those of the patient and the same for all of their kidneys.
    """
    used = kidneys[kidneys["part"].isin(PARTS)]
    found = kidney_identity(kidneys, stated)
    keys = ["patient_id", "study_id", "side"]
    base = _base(used)
    whose = patients.iloc[used["row"].to_numpy(dtype=int)]
    centres = base.assign(kind=CENTRES, kidney=0, value=digests(whose["center"], whose["role"]))
    numbered = used[keys].astype(str).assign(place=range(len(used)))
    seen = volumes.assign(**{key: volumes[key].astype(str) for key in keys}).merge(numbered, on=keys)
    owner = base.iloc[seen["place"].to_numpy(dtype=int)].reset_index(drop=True)
    item, value = digests(seen["series_id"], seen["phase"]), seen["crc32"].to_numpy(dtype=np.int64)
    frames = [found.rows, centres.drop_duplicates("patient"), owner.assign(kind=VOLUMES, item=item, value=value)]
    return DataIdentity(pd.concat(frames, ignore_index=True), contract, found.names)


def kidney_identity(kidneys: pd.DataFrame, stated: Mapping[str, Sequence[bytes]]) -> DataIdentity:
    """The identity of kidneys without volumes.

    Args:
        kidneys: patient_id, study_id, side and part; those of no part are left out.
        stated: As `plan_identity`.
    """
    used = kidneys["part"].isin(PARTS).to_numpy(dtype=bool)
    base = _base(kidneys[used])
    frames = []
    for kind, values in stated.items():
        frame = base.assign(kind=kind, value=digests([value for value, use in zip(values, used, strict=True) if use]))
        frames.append(frame.assign(kidney=0).drop_duplicates("patient") if kind == LABELS else frame)
    names = dict(zip(base["patient"].tolist(), kidneys.loc[used, "patient_id"].astype(str), strict=True))
    return DataIdentity(pd.concat(frames, ignore_index=True), names=names)


def _base(kidneys: pd.DataFrame) -> pd.DataFrame:
    """Who and which each kidney is."""
    return pd.DataFrame(
        {
            "patient": digests(kidneys["patient_id"]),
            "part": kidneys["part"].astype(str).to_numpy(),
            "kidney": digests(kidneys["study_id"], kidneys["side"]),
            "item": 0,
        }
    )


def corpus_identity(texts: Mapping[str, Sequence[str]]) -> DataIdentity:
    """The identity of a corpus, whose texts are of nobody known.

    Args:
        texts: Texts by part.
    """
    frames = [pd.DataFrame({"part": part, "item": digests(own)}) for part, own in texts.items()]
    rows = pd.concat(frames, ignore_index=True).drop_duplicates("item").assign(kind=TEXTS, patient=0, kidney=0)
    return DataIdentity(rows.assign(value=rows["item"]))


def data_differences(there: DataIdentity, here: DataIdentity) -> list[str]:
    """What differs between the data of two runs, in words; empty where nothing does.

    Args:
        there: What a run used.
        here: What it would use now. Parts that the other did not use do not count, but a patient who moved there does.
    """
    used = [part for part in PARTS if (there.rows["part"] == part).any()]
    compared = here.of(used)
    if there.sha256 == compared.sha256:
        return []
    found = []
    if there.contract != compared.contract:
        found.append("the volumes follow another preprocessing contract")
    found += _moved(there.parts, here.parts, compared.parts)
    both = there.parts.index.intersection(compared.parts.index)
    keys = ["patient", "kidney", "item"]
    for kind in sorted({*there.rows["kind"], *compared.rows["kind"]}):
        old, new = (one.rows.loc[one.rows["kind"] == kind, [*keys, "part", "value"]] for one in (there, compared))
        if kind == TEXTS:
            before, now = (set(zip(own["part"], own["item"], strict=True)) for own in (old, new))
            found += _new_and_gone(len(now - before), len(before - now), "text of the corpus")
            continue
        joined = old[old["patient"].isin(both)].merge(
            new[new["patient"].isin(both)], on=keys, how="outer", suffixes=("", "_new"), indicator=True
        )
        changed = joined[(joined["_merge"] != "both") | (joined["value"] != joined["value_new"])]
        if changed.empty:
            continue
        of_kidneys = bool((changed["kidney"] != 0).all())
        count = len(changed[["patient", "kidney"] if of_kidneys else ["patient"]].drop_duplicates())
        found.append(f"{kind} of {_counted(count, 'kidney' if of_kidneys else 'patient')} differ")
    return found


def _moved(there: pd.Series, here: pd.Series, compared: pd.Series) -> list[str]:
    """Who is in another part, new, or no longer there."""
    moves = pd.DataFrame({"old": there, "new": here.reindex(there.index)})
    gone = int(moves["new"].isna().sum())
    moves = moves[moves["new"].notna() & (moves["old"] != moves["new"])]
    found = [
        f"{_counted(len(group), 'patient')} moved from {old} to {new}"
        for (old, new), group in moves.groupby(["old", "new"], sort=True)
    ]
    return found + _new_and_gone(len(compared.index.difference(there.index)), gone, "patient")


def _new_and_gone(new: int, gone: int, noun: str) -> list[str]:
    counts = {"new": new, "no longer there": gone}
    return [f"{_counted(n, noun)} {'is' if n == 1 else 'are'} {state}" for state, n in counts.items() if n]


def _counted(count: int, noun: str) -> str:
    first, _, rest = noun.partition(" ")
    return f"{count} {first}{'' if count == 1 else 's'}{' ' + rest if rest else ''}"
