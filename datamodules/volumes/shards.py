"""Volume sets: the ROI volumes of a cohort as integer shards, one shard per patient.

A shard is a litdata chunk that holds every volume of one patient, so that a label fraction reads its patients' shards
only, a patient who withdraws is one file to delete, and a build that was interrupted has lost one patient at most.

    volumes/<region>-<contract hash>/
        contract.json       the preprocessing contract
        index.json          litdata's index
        index.parquet       one row per volume: its keys, phase, position, shard and checksum
        files.parquet       one row per file below: its patient, size and checksum
        shards/<id>.bin     int16 [D, H, W] in HU
        masks/<id>.npz      uint8 [D, H, W] label maps, where known
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import litdata
import numpy as np
import pandas as pd
from litdata.streaming.writer import BinaryWriter

from datamodules.errors import DataError
from datamodules.files import (
    put,
    read_json_mapping,
    read_parquet,
    remove_leftovers,
    replacing,
    write_json,
    write_parquet,
)
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.object_store import ShardStore
from datamodules.volumes.roi import Mask, Volume
from datamodules.volumes.volume_files import MEND, check_bytes, file_entry, read_files, read_masks, write_files

_KEYS = ("patient_id", "study_id", "series_id", "side", "phase")
_ONE_CHUNK = 1 << 50  # bytes; a patient is never divided


def volume_folder(root: Path, contract: PreprocessingContract) -> Path:
    """Folder of the volume set whose arrays are those of `contract`: the one that is there, else its place."""
    own = root / "volumes" / f"{contract.region}-{contract.stored.hash}"
    # Sets of another window were once named by it.
    return next((path.parent for path in _sets(root, contract.region) if _same(path, contract)), own)


def _sets(root: Path, region: str) -> list[Path]:
    """The contracts of the finished sets of a region."""
    return sorted((root / "volumes").glob(f"{region}-*/contract.json"))


def _contract(path: Path) -> PreprocessingContract:
    return PreprocessingContract.from_dict(read_json_mapping(path))


def _same(path: Path, contract: PreprocessingContract) -> bool:
    return _contract(path).stored.hash == contract.stored.hash


def shard_name(patient_id: str) -> str:
    """File name of a patient's shard without ending; the identifier itself may not be a valid file name."""
    return hashlib.sha256(patient_id.encode()).hexdigest()[:16]


def checksum(array: np.ndarray) -> int:
    """CRC-32 of a volume, as the index of its set holds it."""
    return zlib.crc32(np.ascontiguousarray(array).data)


def write_shard(
    folder: Path, patient_id: str, volumes: Sequence[Volume], masks: Sequence[Mask], contract: PreprocessingContract
) -> dict[str, Any]:
    """Write one patient's volumes and masks, atomically; safe to call from several processes at once.

    Args:
        folder: Folder of the volume set.
        patient_id: Patient.
        volumes: int16 volumes on the contract's grid.
        masks: uint8 label maps on the contract's grid.
        contract: The contract that they follow.

    Returns:
        The shard's entry for `finish_volume_set`.

    Raises:
        DataError: if a volume has another shape or type, or is constant, or the disk is full.
    """
    for volume in volumes:
        where = f"{patient_id}, {volume.study_id}, {volume.side}"
        _check_array(volume.image, np.dtype(np.int16), contract, where)
        if volume.image.min() == volume.image.max():
            value = volume.image.min()
            raise DataError(f"{where}: every voxel of the {volume.phase} volume is {value} HU; expected a scan.")
    for mask in masks:
        _check_array(mask.labels, np.dtype(np.uint8), contract, f"{patient_id}, {mask.study_id}, {mask.side}")
    name = shard_name(patient_id)
    entry = _write_chunk(folder / "shards" / f"{name}.bin", patient_id, volumes) if volumes else None
    names = [f"shards/{name}.bin"] if volumes else []
    if masks:
        names.append(f"masks/{name}.npz")
        with replacing(folder / "masks" / f"{name}.npz") as temporary, temporary.open("wb") as handle:
            named: dict[str, Any] = {f"{mask.study_id}|{mask.side}": mask.labels for mask in masks}
            np.savez_compressed(handle, **named)
    rows = [
        {
            **{key: patient_id if key == "patient_id" else getattr(volume, key) for key in _KEYS},
            "crc32": checksum(volume.image),
        }
        for volume in volumes
    ]
    files = [file_entry(folder, written, patient_id) for written in names]
    own = {"patient_id": patient_id, "shard": f"{name}.bin", "litdata": entry}
    return own | {"rows": rows, "masks": bool(masks), "files": files}


def _check_array(array: np.ndarray, kind: np.dtype[Any], contract: PreprocessingContract, where: str) -> None:
    if array.shape != contract.grid or array.dtype != kind:
        raise DataError(
            f"{where}: an array {array.shape} of {array.dtype} was found; "
            f"expected {contract.grid} of {kind.name} (D x H x W)."
        )


def _write_chunk(path: Path, patient_id: str, volumes: Sequence[Volume]) -> dict[str, Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    scratch = Path(tempfile.mkdtemp(prefix=".", suffix=".part", dir=path.parent))
    try:
        writer = BinaryWriter(str(scratch), chunk_bytes=_ONE_CHUNK)
        for position, volume in enumerate(volumes):
            key = "|".join((patient_id, volume.study_id, volume.series_id, volume.side))
            writer.add_item(position, {"key": key, "image": np.ascontiguousarray(volume.image)})
        writer.done()
        index = json.loads(next(scratch.glob("*index.json")).read_text())
        (chunk,) = index["chunks"]
        put(scratch / chunk["filename"], path)
        return {"chunk": {**chunk, "filename": path.name}, "config": index["config"]}
    except OSError as error:
        raise DataError(
            f"Shard {path.name} of patient {patient_id} could not be written: {error.strerror or error}. "
            "Free some space, then run the same command again; finished shards are kept."
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def finish_volume_set(folder: Path, contract: PreprocessingContract, entries: Sequence[dict[str, Any]]) -> None:
    """Write the indices over all finished shards, `contract.json` last: without it the set does not exist.

    Args:
        folder: Folder of the volume set.
        contract: The contract that all shards follow.
        entries: What `write_shard` returned, in the order that positions shall have.
    """
    chunks, rows, config = [], [], None
    for entry in (entry for entry in entries if entry["litdata"] is not None):
        chunks.append({**entry["litdata"]["chunk"], "filename": entry["shard"]})
        config = entry["litdata"]["config"]
        rows += [{**row, "shard": entry["shard"]} for row in entry["rows"]]
    if not rows:
        raise DataError(f"No volume was written to {folder.name}; expected at least one patient with a scan.")
    frame = pd.DataFrame(rows).convert_dtypes()
    frame.insert(0, "position", range(len(frame)))
    write_json(folder / "shards" / "index.json", {"chunks": chunks, "config": config, "updated_at": "0"})
    write_parquet(folder / "index.parquet", frame)
    write_files(folder, entries)
    write_json(folder / "contract.json", contract.to_dict())


def _places(shard: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First position and number of volumes of every shard, int64; those of a shard follow each other."""
    count = np.bincount(shard)
    return np.cumsum(count) - count, count


def _nearest(found: Sequence[Path], contract: PreprocessingContract) -> str:
    """In what the set that is there differs, where there is one only."""
    if len(found) != 1:
        return ""
    return f" ({'; '.join(_contract(found[0]).stored.differences(contract.stored))} wanted)"


class VolumeSet:
    """Read access to a volume set; picklable, opened lazily in every process.

    The shards may lie on an object store: upload the set's folder as it is, and keep the cohort's tables and the set's
    `contract.json`, `index.parquet`, `files.parquet` and `masks` local. Credentials, endpoint and region come from the
    environment (s3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, AWS_ENDPOINT_URL, AWS_REGION; gs:
    GOOGLE_APPLICATION_CREDENTIALS), never from a configuration file. gs needs the extra `object-store`.

    Args:
        folder: Folder of the set, local.
        url: Where the set's folder lies on an object store, for example `s3://bucket/cohort/volumes/<set>`; a
            patient's shard is fetched when first read. Left out where the shards are in `folder`.
        cache: Local folder for fetched shards, which the processes of a machine share; expected with `url`.
        cache_size: Bound of that folder, for example `50GB`; shards under way, one per process, come on top.
        in_order: Whether fetched shards are read one after the other, so that those read first make room.
        by_volume: Whether a volume is fetched by itself, which moves the bytes that are read and no others, at one
            request each; a shard is worth fetching as a whole where its other volumes are read soon.

    Raises:
        DataError: if the set is not complete, a local shard is missing, or an option is refused.
    """

    def __init__(
        self,
        folder: Path,
        url: str | None = None,
        cache: Path | None = None,
        cache_size: str | None = None,
        in_order: bool = False,
        by_volume: bool = False,
    ) -> None:
        if not (folder / "contract.json").is_file():
            raise DataError(
                f"Volume set {folder.name} is not finished (no contract.json); "
                "run `make cohort` or `make import` again."
            )
        self.folder = folder
        self.contract = _contract(folder / "contract.json")
        size = 2 * math.prod(self.contract.grid) if by_volume else None
        self._store = None if url is None else ShardStore(url, folder, cache, cache_size, in_order, size)
        self.index = read_parquet(folder / "index.parquet")[0]
        self._checksums = self.index["crc32"].to_numpy(dtype=np.int64)
        codes, names = pd.factorize(self.index["shard"])
        self._shard, self._shards = codes.astype(np.int32), names.astype(object).tolist()
        self._first, self._count = _places(self._shard)
        self._verified = np.zeros(len(self.index), dtype=bool)
        self._whole: set[str] = set()
        self._stream: litdata.StreamingDataset | None = None
        if url is None:
            held = os.listdir(folder / "shards") if (folder / "shards").is_dir() else []
            missing = sorted(set(self._shards) - set(held))
            if missing:
                raise DataError(
                    f"{len(missing)} shards of {folder.name} are missing, the first is {missing[0]}; "
                    "run `make cohort` or `make import` again, finished shards are kept."
                )

    @classmethod
    def find(
        cls, root: Path, region: str = "kidney", contract: PreprocessingContract | None = None, **options: Any
    ) -> VolumeSet:
        """The volume set of a cohort.

        Args:
            root: Folder of the cohort.
            region: What the region is centred on.
            contract: Contract whose arrays are wanted; may be left out when there is one set of that region.
            options: As the constructor's.

        Raises:
            DataError: if there is none, or several and no contract.
        """
        found = _sets(root, region)
        wanted = [path.parent for path in found if contract is None or _same(path, contract)]
        if len(wanted) != 1:
            raise DataError(
                f"Cohort {root.name} holds the finished volume sets {[path.parent.name for path in found] or 'none'}; "
                f"expected one{'' if contract is None else f' named {contract.stored.hash}'} of region {region!r}"
                f"{'' if contract is None else _nearest(found, contract)}. "
                "Run `make cohort` or `make import` again with the PROFILE that asks for it."
            )
        return cls(wanted[0], **options)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def shard_numbers(self) -> np.ndarray:
        """The shard of every position, as numbers from 0, int32 [N]."""
        return self._shard

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stream": None}

    def read(self, position: int) -> np.ndarray:
        """The volume at a position of `index`.

        Its checksum is verified the first time that this process reads it, and again when its shard was fetched anew.

        Returns:
            int16 [D, H, W] in HU.

        Raises:
            DataError: if its shard is missing, truncated or damaged, or cannot be fetched, naming the shard.
        """
        try:
            return self._read(position)
        except DataError:
            shard = int(self._shard[position])
            if self._store is None or not self._store.drop(self._shards[shard], int(position - self._first[shard])):
                raise
            return self._read(position)  # the copy was damaged, or older than the cohort

    def _read(self, position: int) -> np.ndarray:
        number = int(self._shard[position])
        shard = self._shards[number]
        if self._store is not None and self._store.volume_bytes is not None:
            content, new = self._store.volume(shard, int(position - self._first[number]), int(self._count[number]))
            self._verified[position] &= not new
            found = np.frombuffer(bytearray(content), dtype=np.int16)
            return self._checked(position, found.reshape(self.contract.grid))
        if self._store is not None and self._store.fetch(shard):
            start = int(self._first[number])
            self._verified[start : start + int(self._count[number])] = False
        try:
            image = self._open()[int(position)]["image"]
        except Exception as error:  # litdata raises many kinds; every one means that this shard is not readable
            mend = f" {MEND}." if self._store is None else ""
            raise DataError(
                f"{self._located(shard)} could not be read ({type(error).__name__}: {error}).{mend}"
            ) from error
        return self._checked(position, image)

    def _checked(self, position: int, image: np.ndarray) -> np.ndarray:
        """The volume, after its checksum where this process has not verified this copy."""
        if not self._verified[position]:
            shard, found = self._shards[self._shard[position]], checksum(image)
            if found != self._checksums[position] or image.shape != self.contract.grid:
                upload = "" if self._store is None else ", then upload it"
                raise DataError(
                    f"{self._located(shard)} is damaged: volume {position} has CRC-32 {found:08x}, expected "
                    f"{self._checksums[position]:08x}. "
                    f"{MEND}{upload}."
                )
            self._verified[position] = True
        return image

    @cached_property
    def _files(self) -> pd.DataFrame | None:
        """What is known of each file, by its name; read where a mask is, which not every run reads."""
        return read_files(self.folder)

    def masks(self, patient_id: str) -> dict[tuple[str, str], np.ndarray]:
        """The label maps of a patient by (study_id, side), uint8 [D, H, W]; empty where none are known.

        Their checksum is verified the first time that this process reads them.

        Raises:
            DataError: if the file is missing, truncated or damaged, naming it.
        """
        name = f"masks/{shard_name(patient_id)}.npz"
        listed = self._files
        known = None if listed is None or name not in listed.index else listed.loc[name].to_dict()
        where = f"{name} of {self.folder.parent.parent.name}/{self.folder.name}"
        try:
            content = (self.folder / name).read_bytes()
        except FileNotFoundError as error:
            if known is None:
                return {}
            raise DataError(f"{where}, of patient {patient_id}, is missing. {MEND}.") from error
        except OSError as error:
            raise DataError(f"{where} could not be read: {error.strerror or error}.") from error
        if known is not None and name not in self._whole:
            check_bytes(content, known, where)
            self._whole.add(name)
        return read_masks(content, f"{where}, of patient {patient_id},")

    def mask_checksums(self, patient_id: str) -> dict[tuple[str, str], int]:
        """CRC-32 of the label maps of a patient by (study_id, side), as their archive lists them.

        Raises:
            DataError: if the archive is damaged.
        """
        path = self.folder / "masks" / f"{shard_name(patient_id)}.npz"
        if not path.is_file():
            return {}
        try:
            with zipfile.ZipFile(path) as archive:
                found = {tuple(entry.filename.removesuffix(".npy").split("|")): entry.CRC for entry in archive.filelist}
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(
                f"Masks {path.name} are damaged ({error}); run `make import` again, which writes them anew."
            ) from error
        return {(study, side): crc for (study, side), crc in found.items()}

    def _open(self) -> litdata.StreamingDataset:
        if self._stream is None:
            shards = self.folder / "shards"
            self._stream = litdata.StreamingDataset(str(shards)) if self._store is None else self._store.open()
        return self._stream

    def _located(self, shard: str) -> str:
        return f"Shard {shard} of {self.folder.parent.parent.name}/{self.folder.name}"
