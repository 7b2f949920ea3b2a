"""Embeddings of texts on disk: each text once, memory-mapped, and never those of another encoder."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from datamodules.errors import DataError
from datamodules.files import replacing

FORMAT = "1"
_KEY, _CHECKSUM, _VECTOR = "text_sha256", "crc32", "vector"
_SUFFIX = ".arrow"
_FINGERPRINT = re.compile(r"[\w-][\w.-]{0,127}")


@dataclass(frozen=True)
class _Shard:
    """One mapped file: checksums uint32 [N] and vectors float32 [N, D]."""

    name: str
    checksums: np.ndarray
    vectors: np.ndarray


class EmbeddingCache:
    """Embeddings of one encoder, by the SHA-256 of their texts.

    A folder of Arrow files under the encoder's fingerprint: a changed adapter, pooling or prompt is another folder, so
    an embedding is never stale. `add` writes a file of its own, beside others and atomically, so any number of
    processes may add at once without a lock; what two of them add twice is kept twice and read once. The files hold no
    text. Vectors are float32: what was computed is what is read, to the bit. Half precision would lose three digits of
    the large channels that language models have, and a mapped file costs no memory for being larger.

    Args:
        folder: Folder of all caches.
        fingerprint: Of the encoder, with everything that an embedding depends on.
        dim: Width of an embedding.

    Raises:
        DataError: if the fingerprint cannot name a folder, or a file in it is damaged or of another encoder.
    """

    def __init__(self, folder: Path, fingerprint: str, dim: int) -> None:
        if not _FINGERPRINT.fullmatch(fingerprint):
            raise DataError(f"The encoder's fingerprint is {fingerprint!r}; expected letters, digits, '.', '_' or '-'.")
        if dim < 1:
            raise DataError(f"An embedding of width {dim} was asked for; expected at least 1.")
        self.folder, self.fingerprint, self.dim = Path(folder) / fingerprint, fingerprint, dim
        self._shards: dict[str, _Shard] = {}
        self._places: dict[bytes, tuple[_Shard, int]] = {}
        self._refresh()

    def __len__(self) -> int:
        return len(self._places)

    def __getstate__(self) -> dict[str, object]:
        """Without mapped files, which every process opens for itself."""
        return {"folder": self.folder, "fingerprint": self.fingerprint, "dim": self.dim}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._shards, self._places = {}, {}
        self._refresh()

    def missing(self, texts: Sequence[str]) -> list[str]:
        """The distinct texts that have no embedding yet, in their order; sees what other processes have added."""
        wanted = {text_key(text): text for text in texts}
        if any(key not in self._places for key in wanted):
            self._refresh()
        return [text for key, text in wanted.items() if key not in self._places]

    def add(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        """Keep embeddings; texts that are known already are left as they are.

        Args:
            texts: Texts.
            vectors: float [N, dim], finite.

        Raises:
            DataError: if shape or values do not fit, or the disk is full.
        """
        rows = np.asarray(vectors, dtype=np.float32)
        if rows.shape != (len(texts), self.dim):
            raise DataError(f"Embeddings of shape {rows.shape} were given for {len(texts)} texts of width {self.dim}.")
        if not np.isfinite(rows).all():
            raise DataError("An embedding holds values that are not finite; it is not kept.")
        fresh = {text_key(text): row for row, text in enumerate(texts)}
        fresh = {key: row for key, row in fresh.items() if key not in self._places}
        if not fresh:
            return
        name = hashlib.sha256(b"".join(sorted(fresh))).hexdigest()[:32] + _SUFFIX
        self._write(self.folder / name, list(fresh), np.ascontiguousarray(rows[list(fresh.values())]))
        self._refresh()

    def rows(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings, float32 [N, dim], in the order of the texts; only their pages of the files are read.

        Raises:
            DataError: if a text has no embedding, or its embedding is damaged.
        """
        keys = [text_key(text) for text in texts]
        if any(key not in self._places for key in keys):
            self._refresh()
        unknown = len({key for key in keys if key not in self._places})
        if unknown:
            raise DataError(
                f"{unknown} of {len(set(keys))} texts have no embedding in cache {self.fingerprint}; embed what "
                "`missing` returns first."
            )
        found = np.empty((len(keys), self.dim), dtype=np.float32)
        for number, key in enumerate(keys):
            shard, row = self._places[key]
            vector = shard.vectors[row]
            if zlib.crc32(vector.tobytes()) != shard.checksums[row]:
                raise self._refused(shard.name, "an embedding differs from its checksum")
            found[number] = vector
        return found

    def _write(self, path: Path, keys: list[bytes], vectors: np.ndarray) -> None:
        checksums = np.array([zlib.crc32(row.tobytes()) for row in vectors], dtype=np.uint32)
        flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), self.dim)
        schema = self._schema()
        table = pa.Table.from_arrays([pa.array(keys, pa.binary(32)), pa.array(checksums), flat], schema=schema)
        with (
            replacing(path) as temporary,
            pa.OSFile(str(temporary), "wb") as file,
            pa.ipc.new_file(file, schema) as writer,
        ):
            writer.write_table(table, max_chunksize=len(keys))

    def _schema(self) -> pa.Schema:
        fields = [
            pa.field(_KEY, pa.binary(32)),
            pa.field(_CHECKSUM, pa.uint32()),
            pa.field(_VECTOR, pa.list_(pa.float32(), self.dim)),
        ]
        return pa.schema(fields, metadata={"format": FORMAT, "encoder": self.fingerprint, "dim": str(self.dim)})

    def _refresh(self) -> None:
        """Map the files that were added since; the same order in every process."""
        for path in sorted(self.folder.glob(f"[!.]*{_SUFFIX}")):
            if path.name not in self._shards:
                keys, shard = self._open(path)
                self._shards[path.name] = shard
                for row, key in enumerate(keys):
                    self._places.setdefault(key, (shard, row))

    def _open(self, path: Path) -> tuple[Iterator[bytes], _Shard]:
        try:
            with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
                found = reader.schema
                if found != self._schema() or found.metadata != self._schema().metadata:
                    raise self._refused(path.name, f"its header says {_described(found)}")
                table = reader.read_all()
        except (pa.ArrowInvalid, OSError) as error:
            raise self._refused(path.name, f"it cannot be read ({' '.join(str(error).split())[:120]})") from error
        if table.num_rows == 0:
            raise self._refused(path.name, "it holds no row")
        if any(table.column(name).num_chunks != 1 or table.column(name).null_count for name in table.column_names):
            raise self._refused(path.name, "it holds several batches or empty rows")
        columns = {name: table.column(name).chunk(0) for name in table.column_names}
        vectors = columns[_VECTOR].flatten().to_numpy(zero_copy_only=True).reshape(-1, self.dim)
        shard = _Shard(path.name, columns[_CHECKSUM].to_numpy(zero_copy_only=True), vectors)
        return iter(columns[_KEY].to_pylist()), shard

    def _refused(self, name: str, reason: str) -> DataError:
        return DataError(
            f"{name} in embedding cache {self.fingerprint}: {reason}; expected an Arrow file of format {FORMAT} with "
            f"embeddings of width {self.dim} by this encoder. Delete the file; its texts are embedded again."
        )


def text_key(text: str) -> bytes:
    """SHA-256 of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8")).digest()


def _described(schema: pa.Schema) -> str:
    header = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    known = {name: header[name] for name in ("format", "encoder", "dim") if name in header}
    return ", ".join(f"{name} {value}" for name, value in known.items()) or "nothing of an embedding cache"
