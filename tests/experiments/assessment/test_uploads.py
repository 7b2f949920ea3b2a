"""What a browser may send: a study within limits, and nothing that leaves its folder or fills the disk."""

from __future__ import annotations

import gzip
import io
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from werkzeug.datastructures import FileStorage

from datamodules.errors import DataError
from experiments.assessment.uploads import Limits, receive, unpack

SMALL = Limits(upload_bytes=1 << 20, unpacked_bytes=1 << 22, files=5)


def sent(name: str, content: bytes = b"x") -> FileStorage:
    return FileStorage(io.BytesIO(content), filename=name)


def packed(files: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", kind) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def test_a_zip_of_a_folder_is_that_folder_and_the_mask_lies_in_it(tmp_path: Path) -> None:
    zipped = packed({"case/0/I0001": b"slice", "case/1/I0001": b"other", "__MACOSX/._x": b"m"})
    root = receive(tmp_path, sent("study.ZIP", zipped), sent("any name.nii"), "", SMALL)
    assert root.name == "case"
    assert (root / "0/I0001").read_bytes() == b"slice"
    assert (root / "mask.nii").is_file()
    assert not (tmp_path / "study.zip").exists()


def test_one_scan_is_called_after_its_phase(tmp_path: Path) -> None:
    root = receive(tmp_path, sent("C:\\patient Smith.nii.gz", gzip.compress(b"scan")), None, "venous", SMALL)
    assert [path.name for path in root.iterdir()] == ["venous.nii.gz"]
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="contrast phase is one of"):
        receive(tmp_path / "other", sent("a.nii"), None, "../../venous", SMALL)


@pytest.mark.parametrize("name", ["../out", "/etc/out", "a/../../out", "a\\..\\out", "C:/out", "a/./../../../out"])
def test_a_name_that_leads_out_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "z.zip").write_bytes(packed({"fine": b"1", name: b"evil"}))
    with pytest.raises(DataError, match="leads out of its folder"):
        unpack(tmp_path / "z.zip", tmp_path / "in", SMALL)
    assert not list(tmp_path.rglob("out"))


def test_a_link_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    (tmp_path / "z.zip").write_bytes(out.getvalue())
    with pytest.raises(DataError, match="holds a link"):
        unpack(tmp_path / "z.zip", tmp_path / "in", SMALL)


def test_bombs_are_refused_before_they_fill_the_disk(tmp_path: Path) -> None:
    limits = Limits(unpacked_bytes=1 << 26, files=5)
    (tmp_path / "z.zip").write_bytes(packed({"a": bytes(60 << 20)}))
    with pytest.raises(DataError, match="times what was sent"):
        unpack(tmp_path / "z.zip", tmp_path / "in", limits)
    assert sum(path.stat().st_size for path in (tmp_path / "in").rglob("*")) <= 17 << 20
    (tmp_path / "y.zip").write_bytes(packed({f"{number}": b"" for number in range(6)}))
    with pytest.raises(DataError, match="6 files; at most 5"):
        unpack(tmp_path / "y.zip", tmp_path / "in2", limits)
    (tmp_path / "gz").mkdir()
    with pytest.raises(DataError, match="unpacks to more than"):
        receive(tmp_path / "gz", sent("a.nii.gz", gzip.compress(bytes(60 << 20))), None, "", limits)


def test_a_zip_that_lies_of_its_size_is_refused(tmp_path: Path) -> None:
    content = bytearray(packed({"a": bytes(3 << 20), "b": bytes(3 << 20)}, zipfile.ZIP_STORED))
    for offset in (i for i in range(len(content)) if content[i : i + 4] == b"PK\x01\x02"):
        content[offset + 24 : offset + 28] = struct.pack("<I", 10)  # uncompressed size in the directory
    (tmp_path / "z.zip").write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"damaged|unpacks to more than"):
        unpack(tmp_path / "z.zip", tmp_path / "in", SMALL)


@pytest.mark.parametrize("name", ["study.exe", "study", "study.nii.gz.html", ""])
def test_other_files_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither \.zip nor"):
        receive(tmp_path, sent(name), None, "", SMALL)


def test_damage_is_said(tmp_path: Path) -> None:
    (tmp_path / "z.zip").write_bytes(packed({"a": bytes(range(256)) * 9})[:-40])
    with pytest.raises(DataError, match="zip is damaged"):
        unpack(tmp_path / "z.zip", tmp_path / "in", SMALL)
    with pytest.raises(DataError, match="cannot be unpacked"):
        receive(tmp_path, sent("a.nii.gz", b"no gzip"), None, "", SMALL)
