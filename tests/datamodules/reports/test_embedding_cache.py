"""The embedding cache: exact, shared by processes, and never another encoder's or a damaged file's numbers."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from datamodules.errors import DataError
from datamodules.reports.embedding_cache import EmbeddingCache

DIM = 5


def _vectors(texts: list[str]) -> np.ndarray:
    """A vector that its text alone decides."""
    seeds = [list(text.encode()) for text in texts]
    return np.stack([np.random.default_rng(seed).normal(size=DIM) for seed in seeds]).astype(np.float32)


def _filled(folder: Path, texts: list[str]) -> EmbeddingCache:
    cache = EmbeddingCache(folder, "abc", DIM)
    cache.add(texts, _vectors(texts))
    return cache


def _file(cache: EmbeddingCache) -> Path:
    return next(cache.folder.glob("*.arrow"))


def test_rows_are_those_that_were_added_to_the_bit_and_in_any_order(tmp_path: Path) -> None:
    first, second = ["a", "b", "Ä\n"], ["c", "d"]
    cache = _filled(tmp_path, first)
    cache.add(second, _vectors(second))
    asked = ["d", "a", "Ä\n", "d", "b"]
    for reader in (cache, EmbeddingCache(tmp_path, "abc", DIM)):
        assert np.array_equal(reader.rows(asked), _vectors(asked))
        assert len(reader) == 5
        assert reader.rows([]).shape == (0, DIM)
    assert len(list(cache.folder.glob("*"))) == 2


def test_missing_names_each_unknown_text_once_and_in_order(tmp_path: Path) -> None:
    cache = _filled(tmp_path, ["b"])
    assert cache.missing(["c", "a", "b", "c"]) == ["c", "a"]
    with pytest.raises(DataError, match="2 of 3 texts have no embedding"):
        cache.rows(["c", "a", "b", "c"])


def test_a_known_text_is_neither_written_again_nor_changed(tmp_path: Path) -> None:
    cache = _filled(tmp_path, ["a"])
    cache.add(["a", "a", "z"], np.concatenate([np.zeros((2, DIM)), _vectors(["z"])]))
    assert np.array_equal(cache.rows(["a", "z"]), _vectors(["a", "z"]))
    assert len(EmbeddingCache(tmp_path, "abc", DIM)) == 2


def test_another_fingerprint_sees_nothing(tmp_path: Path) -> None:
    _filled(tmp_path, ["a"])
    assert EmbeddingCache(tmp_path, "abd", DIM).missing(["a"]) == ["a"]
    with pytest.raises(DataError, match="fingerprint"):
        EmbeddingCache(tmp_path, "../abc", DIM)


def test_files_hold_no_text(tmp_path: Path) -> None:
    cache = _filled(tmp_path, ["Left kidney of Mr Example"])
    assert b"Example" not in _file(cache).read_bytes()


def test_a_reader_sees_what_another_added_later_and_survives_pickling(tmp_path: Path) -> None:
    reader = EmbeddingCache(tmp_path, "abc", DIM)
    _filled(tmp_path, ["a"])
    assert reader.missing(["a", "b"]) == ["b"]
    _filled(tmp_path, ["b"])
    assert np.array_equal(reader.rows(["b"]), _vectors(["b"]))
    copy = pickle.loads(pickle.dumps(reader))
    assert np.array_equal(copy.rows(["b", "a"]), _vectors(["b", "a"]))


@pytest.mark.parametrize("damage", ["truncated", "emptied", "text", "bit"])
def test_a_damaged_file_is_named_and_refused(tmp_path: Path, damage: str) -> None:
    texts = [f"text {number}" for number in range(50)]
    path = _file(_filled(tmp_path, texts))
    content = path.read_bytes()
    vector = _vectors(["text 7"]).tobytes()
    changed = {
        "truncated": content[: len(content) // 2],
        "emptied": b"",
        "text": b"not an Arrow file at all, whatever its name says",
        "bit": content.replace(vector, bytes([vector[0] ^ 1]) + vector[1:]),
    }
    assert changed[damage] != content
    path.write_bytes(changed[damage])
    with pytest.raises(DataError, match=rf"{path.name}.*Delete the file"):
        EmbeddingCache(tmp_path, "abc", DIM).rows(texts)


def test_a_file_of_another_encoder_or_width_is_refused(tmp_path: Path) -> None:
    path = _file(_filled(tmp_path, ["a"]))
    other = tmp_path / "abd"
    other.mkdir()
    (other / path.name).write_bytes(path.read_bytes())
    with pytest.raises(DataError, match="encoder abc"):
        EmbeddingCache(tmp_path, "abd", DIM)
    with pytest.raises(DataError, match="dim 5"):
        EmbeddingCache(tmp_path, "abc", DIM + 1)
    table = pa.table({"x": [1]})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match="nothing of an embedding cache"):
        EmbeddingCache(tmp_path, "abc", DIM)


def test_what_does_not_fit_is_not_kept(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, "abc", DIM)
    with pytest.raises(DataError, match="shape"):
        cache.add(["a"], np.zeros((1, DIM + 1)))
    with pytest.raises(DataError, match="finite"):
        cache.add(["a"], np.full((1, DIM), np.nan))
    assert not cache.folder.exists()


def _write(folder: Path, number: int, barrier: object) -> None:
    cache = EmbeddingCache(folder, "abc", DIM)
    barrier.wait()  # type: ignore[attr-defined]
    for start in range(number, 40, 2):
        texts = [f"text {row}" for row in range(start, start + 6)]
        cache.add(texts, _vectors(texts))


def test_processes_write_at_once_and_nothing_is_lost(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    writers = [context.Process(target=_write, args=(tmp_path, number, barrier)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0] * 4
    texts = [f"text {row}" for row in range(40)]
    cache = EmbeddingCache(tmp_path, "abc", DIM)
    assert cache.missing(texts) == []
    assert np.array_equal(cache.rows(texts), _vectors(texts))
    assert not [path.name for path in cache.folder.iterdir() if path.suffix != ".arrow"]
