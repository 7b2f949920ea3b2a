"""Which file belongs to which patient: a folder of DICOM files is read through once, headers only.

The index lies in the private folder, never in the cohort, for it holds paths. It has one file per patient, so that a
worker reads what it needs and a hospital's archive does not have to fit into memory.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from datamodules.engine import Lost, Needs, open_pool
from datamodules.errors import DataError
from datamodules.files import read_json_mapping, write_json
from datamodules.importers.dicom.headers import NotDicom, read_headers
from datamodules.importers.dicom.slice_header import SliceHeader
from datamodules.importers.pseudonyms import Naming

Progress = Callable[[int, int], None]

_CHUNK = 50
"""Files that one process reads before it answers: about a tenth of a second."""
_WORTH_A_POOL = 10_000
"""Number of files from which the start of more processes does not matter."""
_LEAST_WORKERS = 3
"""On two busy cores two processes were not faster than one."""
_OPEN_FILES = 64
_DONE = "complete.json"


@dataclass(frozen=True)
class DicomIndex:
    """The headers of one imported folder.

    What it holds in all is read once; of a patient it reads what it is asked for.

    Args:
        folder: Where the index lies.
    """

    folder: Path

    def __reduce__(self) -> tuple[type[DicomIndex], tuple[Path]]:
        """The place alone: a worker reads for itself what it needs."""
        return type(self), (self.folder,)

    @functools.cached_property
    def summary(self) -> dict[str, Any]:
        """`patients` (identifier to file), and `files` in all, `empty_folders`, `damaged_files` and `other_files` that
        have no patient, the `reasons` of the damaged ones, the pseudonyms of all `studies` and `series`, and `left`:
        digests of patients whom it forgot."""
        return read_json_mapping(self.folder / _DONE)

    def headers(self, patient_id: str) -> list[SliceHeader]:
        """All slices and other objects of a patient, in the order of their paths."""
        lines = (self.folder / self.summary["patients"][patient_id]).read_text(encoding="utf-8").splitlines()
        return [SliceHeader.from_dict(json.loads(line)) for line in lines]

    def forget(self, patients: Sequence[str], naming: Naming) -> bool:
        """Remove what it holds of some patients.

        Args:
            patients: Their identifiers in the cohort.
            naming: What gave them.

        Returns:
            False where it forgot others before, who are to be found again: it must be built anew.
        """
        summary = self.summary
        left = set(summary.get("left", []))
        if left - {_digest(patient) for patient in patients}:
            return False
        here = [patient for patient in patients if patient in summary["patients"]]
        for patient in here:
            headers = self.headers(patient)
            gone = {
                "studies": {naming.study(header.study_uid) for header in headers},
                "series": {naming.series(header.series_uid) for header in headers},
            }
            for kind, names in gone.items():
                summary[kind] = [name for name in summary[kind] if name not in names]
            name = summary["patients"].pop(patient)
            (self.folder / name).unlink()
            summary.get("crc32", {}).pop(name, None)
        if here:
            write_json(self.folder / _DONE, {**summary, "left": sorted(left | {_digest(one) for one in here})})
        return True


def _digest(patient: str) -> str:
    return hashlib.sha256(patient.encode()).hexdigest()[:16]


def _unreadable(error: OSError) -> None:
    raise DataError(
        f"A folder below the source cannot be read ({error.strerror}); expected read access to all of it, for whoever "
        "lies in there would be left out unseen."
    ) from error


def files_below(root: Path) -> Iterator[Path]:
    """All files below a folder, in a stable order.

    Raises:
        DataError: if a folder cannot be read.
    """
    for folder, below, names in os.walk(root, onerror=_unreadable):
        below.sort()
        for name in sorted(names):
            yield Path(folder) / name


def build_index(
    root: Path,
    store: Path,
    naming: Naming,
    workers: int = 1,
    progress: Progress | None = None,
    place: str = "",
    without: Sequence[str] = (),
) -> DicomIndex:
    """Read the header of every file below a folder, or take the index that an earlier run finished.

    Args:
        root: Folder of DICOM files, nested in any way; files are known by their content, not by their names.
        store: Folder of the index, named by the fingerprint of `root`.
        naming: Gives patients their identifiers.
        workers: Processes that may be used, for many files; the index is the same with any number of them.
        progress: Called with (files done, files in all); not called when there is nothing to read.
        place: What the index is of, whatever its files: an older one of the same beside `store` is removed, for it
            holds who was there then.
        without: Patients whom the index shall not hold.

    Raises:
        DataError: if `root` is no folder, a folder below it cannot be read, or the index cannot be written.
    """
    if not root.is_dir():
        raise DataError("The folder of DICOM files was not found; check the name of the source.")
    if _whole(store) and DicomIndex(store).forget(without, naming):
        return DicomIndex(store)
    empty = sum(1 for _, below, names in os.walk(root) if not below and not names)
    paths = list(files_below(root))
    kinds: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    known: dict[str, set[str]] = {"studies": set(), "series": set()}
    try:
        shutil.rmtree(store, ignore_errors=True)
        store.mkdir(mode=0o700, parents=True)
        with _Lines(store) as lines:
            for done, found in enumerate(_read(paths, root, naming, workers), start=1):
                kinds[found.kind] += 1
                reasons.update([found.reason] if found.reason else [])
                for kind, name in zip(known, found.names, strict=False):
                    known[kind].add(name)
                for line in found.lines:
                    lines.add(found.patient, line)
                if progress is not None and (done % _CHUNK == 0 or done == len(paths)):
                    progress(done, len(paths))
            patients, crc32 = lines.names, lines.crc32
    except OSError as error:
        raise DataError(
            f"The index of DICOM files could not be written in the private folder: {error.strerror or error}. Free "
            "some space or name another folder with `private`, then run the same command again."
        ) from error
    unassigned = {"damaged_files": kinds["damaged"], "other_files": kinds["other"]}
    named = {kind: sorted(names) for kind, names in known.items()}
    found_all = {"patients": patients, "files": len(paths), "empty_folders": empty, **unassigned, **named}
    about = {"reasons": dict(reasons), "crc32": crc32, "place": place, "left": []}
    write_json(store / _DONE, {**found_all, **about})
    _remove_older(store, place)
    DicomIndex(store).forget(without, naming)
    return DicomIndex(store)


def _remove_older(store: Path, place: str) -> None:
    """Remove what earlier imports of the same folder listed, and what an earlier version of this code did."""
    for done in store.parent.glob(f"index-*/{_DONE}"):
        if done.parent != store and _place(done, place) == place:
            shutil.rmtree(done.parent)


def _place(done: Path, unknown: str) -> str:
    """What an index is of; `unknown` where it was not written or is damaged, for such a one is of no use."""
    try:
        return str(read_json_mapping(done).get("place", unknown))
    except DataError:
        return unknown


def _whole(store: Path) -> bool:
    """Whether an index was finished, and is as it was then: a line less would be a slice less, which nobody misses."""
    if not (store / _DONE).is_file():
        return False
    try:
        content = read_json_mapping(store / _DONE, "patients", "files", "reasons", "studies", "series")
        known = content.get("crc32")  # an index of before there were checksums has none
        if known is None:
            return all((store / name).is_file() for name in content["patients"].values())
        return all(zlib.crc32((store / name).read_bytes()) == known[name] for name in content["patients"].values())
    except (DataError, OSError, LookupError, TypeError, AttributeError):  # something else than was written
        return False


class _File(NamedTuple):
    """What one file holds: the headers of a patient as lines of JSON, with the pseudonyms of its study and series, or
    nothing that has a patient, and why."""

    kind: Literal["headers", "damaged", "other"]
    patient: str = ""
    lines: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    reason: str = ""


def _read(paths: Sequence[Path], root: Path, naming: Naming, workers: int) -> Iterator[_File]:
    """What every file holds, in the order of `paths`.

    Reading a header is work for the processor, which threads of one process would share.
    """
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    job = functools.partial(_read_chunk, root=root, naming=naming)
    many = workers >= _LEAST_WORKERS and len(paths) >= _WORTH_A_POOL
    early: dict[int, list[_File]] = {}
    # The key of the pseudonyms stays on this machine.
    with open_pool(job, workers if many else 1, Needs(one_thread=True), local=True) as pool:
        following = 0
        for (number, _), found in pool.run(enumerate(chunks)):
            if isinstance(found, Lost):
                raise DataError(f"{_CHUNK} headers could not be read: {found.sentence}.")
            early[number] = found
            while following in early:
                yield from early.pop(following)
                following += 1


def _read_chunk(numbered: tuple[int, Sequence[Path]], root: Path, naming: Naming) -> list[_File]:
    return [_read_file(path, root, naming) for path in numbered[1]]


def _read_file(path: Path, root: Path, naming: Naming) -> _File:
    try:
        raw, headers = read_headers(path, root)
    except NotDicom:
        return _File("other")
    except DataError as error:
        return _File("damaged", reason=str(error))
    except OSError as error:
        return _File("damaged", reason=f"a file that cannot be read ({error.strerror or type(error).__name__})")
    patient = naming.patient(raw)
    lines = tuple(json.dumps(asdict(replace(header, patient=patient))) for header in headers)
    names = (naming.study(headers[0].study_uid), naming.series(headers[0].series_uid)) if headers else ()
    return _File("headers", patient, lines, names)


class _Lines:
    """Appends lines to one file per patient, a bounded number of them open."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.names: dict[str, str] = {}
        self.crc32: dict[str, int] = {}
        self._open: dict[str, Any] = {}

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def add(self, patient: str, line: str) -> None:
        name = self.names.setdefault(patient, f"{len(self.names):06d}.jsonl")
        if name not in self._open:
            if len(self._open) >= _OPEN_FILES:
                self._close()
            self._open[name] = (self.store / name).open("ab")
        content = f"{line}\n".encode()
        self._open[name].write(content)
        self.crc32[name] = zlib.crc32(content, self.crc32.get(name, 0))

    def _close(self) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()
