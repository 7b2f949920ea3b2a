"""The page over real HTTP, and in a real browser: what it takes, what it says, and that nothing stays."""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from datamodules.errors import DataError
from experiments.assessment.jobs import Job, Jobs
from experiments.assessment.serve_page import TOKEN_HEADER, create_app
from experiments.assessment.uploads import Limits
from tests.experiments.runs.local_server import running

if TYPE_CHECKING:  # the page itself needs no torch, and most tests of it none
    from tests.experiments.assessment.place import Place

LIMITS = Limits(upload_bytes=1 << 20, unpacked_bytes=1 << 24)


def echo(folder: Path, step: Callable[[str], None]) -> Mapping[str, bytes]:
    """Stands for the models: what it was given, as a page."""
    step("reading the study")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    if "refuse.nii" in names or "refuse" in names:
        raise DataError("The folder holds 2 patients; expected one.")
    if "crash" in names:
        raise RuntimeError("secret of the patient")
    return {"assessment.html": f"<h1>{names}</h1>".encode(), "assessment.json": b"{}"}


def served(
    assess: Callable[..., Any] = echo, jobs: Jobs | None = None, token: str = "", limits: Limits = LIMITS
) -> AbstractContextManager[str]:
    return running(create_app(assess, jobs or Jobs(), limits, "Of phantoms.", token))


def zipped(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, b"x" * 10)
    return out.getvalue()


class Visitor:
    """A session that knows its token, as the page's script does."""

    def __init__(self, address: str) -> None:
        self.address, self.http = address, requests.Session()
        page = self.http.get(f"{address}/").text
        self.headers = {TOKEN_HEADER: re.findall(r'name="token" content="([^"]+)"', page)[0]}

    def send(self, content: bytes, name: str = "s.zip") -> requests.Response:
        return self.http.post(f"{self.address}/studies", files={"study": (name, content)}, headers=self.headers)

    def wait(self, sent: requests.Response, seconds: int = 10) -> dict[str, Any]:
        assert sent.status_code == 202, sent.text
        for _ in range(20 * seconds):
            said: dict[str, Any] = self.http.get(f"{self.address}/studies/{sent.json()['study']}").json()
            if said["state"] in ("done", "refused"):
                return said
            time.sleep(0.05)
        raise AssertionError("the study was never finished")


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where studies are put, so that it can be seen that none stays."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def left(folder: Path) -> list[Path]:
    deadline = time.monotonic() + 5
    while (found := sorted(folder.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def test_a_study_is_assessed_shown_and_gone(scratch: Path) -> None:
    with served() as address:
        visitor = Visitor(address)
        sent = visitor.send(zipped("0/I1", "mask.nii.gz"[:-3]))
        said = visitor.wait(sent)
        assert said["state"] == "done"
        assert said["files"] == ["assessment.html", "assessment.json"]
        where = f"{address}/studies/{sent.json()['study']}"
        page = visitor.http.get(f"{where}/assessment.html")
        assert "0/I1" in page.text
        assert "script-src" not in page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        assert page.headers["Cache-Control"] == "no-store"
        assert left(scratch) == []
        assert visitor.http.get(f"{where}/../secret").status_code == 404
        assert visitor.http.delete(where, headers=visitor.headers).status_code == 204
        assert visitor.http.get(f"{where}/assessment.html").status_code == 404


def test_refusals_are_one_sentence_and_a_defect_tells_nothing_of_the_patient(scratch: Path) -> None:
    with served() as address:
        visitor = Visitor(address)
        assert visitor.wait(visitor.send(zipped("refuse")))["reason"] == "The folder holds 2 patients; expected one."
        crashed = visitor.wait(visitor.send(zipped("crash")))
        assert crashed["state"] == "refused"
        assert "secret" not in crashed["reason"]
        for content, name, words in (
            (b"x", "a.exe", "neither .zip"),
            (b"no zip", "a.zip", "damaged"),
            (zipped("../../evil"), "a.zip", "leads out of its folder"),
        ):
            answer = visitor.send(content, name)
            assert (answer.status_code, words in answer.text) == (400, True), answer.text
        assert visitor.http.post(f"{address}/studies", headers=visitor.headers).status_code == 400
        assert visitor.wait(visitor.send(zipped("fine")))["state"] == "done"  # the server goes on
    assert left(scratch) == []


def test_too_much_is_refused(scratch: Path) -> None:
    with served() as address:
        visitor = Visitor(address)
        try:
            answer = visitor.send(os.urandom(2 << 20), "a.nii")
        except requests.ConnectionError:
            pass  # the server closes before it read what it does not take
        else:
            assert answer.status_code == 413
    assert left(scratch) == []
    held = threading.Event()
    jobs = Jobs(most=1)

    def slow(folder: Path, step: Callable[[str], None]) -> Mapping[str, bytes]:
        held.wait(10)
        return {}

    with served(slow, jobs) as address:
        visitor = Visitor(address)
        first = visitor.send(zipped("a"))
        busy = visitor.send(zipped("b"))
        assert busy.status_code == 503
        assert "being assessed already" in busy.text
        held.set()
        assert visitor.wait(first)["state"] == "done"


def test_other_pages_and_other_machines_are_sent_away() -> None:
    with served() as address:
        outsider = requests.post(f"{address}/studies", files={"study": ("a.zip", zipped("a"))})
        assert outsider.status_code == 403
        assert requests.get(f"{address}/", headers={"Host": "evil.example"}).status_code == 400
    with served(token="let-me-in") as address:
        assert requests.get(f"{address}/").status_code == 403
        assert requests.get(f"{address}/?token=guess").status_code == 403
        session = requests.Session()
        landed = session.get(f"{address}/?token=let-me-in")
        assert landed.url == f"{address}/"
        assert landed.status_code == 200


def test_results_are_forgotten_after_a_while(tmp_path: Path) -> None:
    jobs = Jobs(kept_s=0.2)
    folder = jobs.folder()
    job = jobs.add(Job(lambda *_: {"assessment.html": b""}, folder))
    for _ in range(100):
        if job.ended is not None:
            break
        time.sleep(0.02)
    assert jobs.get(job.key) is job
    time.sleep(0.3)
    assert jobs.get(job.key) is None


def test_an_odd_limit_is_refused(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    from experiments.cli import main

    assert main(["serve", "--limit_mb=0", f"--data={place.data}", f"--runs={place.runs}"]) == 2
    assert "LIMIT_MB=0" in capsys.readouterr().err


@pytest.mark.slow
def test_the_page_refuses_in_one_sentence_what_the_command_refuses(place: Place, tmp_path: Path, scratch: Path) -> None:
    from experiments.assessment.assessor import Assessor
    from experiments.assessment.serve_command import _assess_study
    from tests.experiments.assessment.refused_studies import REFUSED

    assessor = Assessor.of_runs(place.data, place.runs, cases=False, outside_training=True)
    limits = Limits(upload_bytes=1 << 26, unpacked_bytes=1 << 28)
    with served(partial(_assess_study, assessor, None, False), limits=limits) as address:
        visitor = Visitor(address)
        for case, (write, expected) in REFUSED.items():
            folder = tmp_path / case
            folder.mkdir()
            write(folder, place)
            archive = Path(shutil.make_archive(str(tmp_path / f"{case} sent"), "zip", folder))
            said = visitor.wait(visitor.send(archive.read_bytes()), seconds=120)
            assert said["state"] == "refused", case
            assert re.search(expected, said["reason"]), (case, said["reason"])
            assert said["reason"].endswith(".")
            assert "=" not in said["reason"], (case, said["reason"])  # no option of a command line
            assert str(scratch) not in said["reason"]
            assert "renal-study" not in said["reason"]
    assert left(scratch) == []


@pytest.mark.slow
def test_a_browser_drops_a_study_and_reads_its_assessment(
    place: Place, browser: Any, tmp_path: Path, scratch: Path
) -> None:
    from experiments.assessment.assessor import Assessor
    from experiments.assessment.serve_command import _assess_study

    assessor = Assessor.of_runs(place.data, place.runs, cases=False, outside_training=True)
    study = shutil.make_archive(str(tmp_path / "study"), "zip", place.files / "E1-0001")
    limits = Limits(upload_bytes=1 << 26, unpacked_bytes=1 << 28)
    with served(partial(_assess_study, assessor, None, False), limits=limits) as address:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        # By keyboard alone: from the top to the button, which says what is missing.
        stops = []
        for _ in range(4):
            page.keyboard.press("Tab")
            stops.append(page.evaluate("document.activeElement.id"))
        assert stops == ["study", "mask", "phase", "send"]
        page.keyboard.press("Enter")
        assert "Choose a study first" in page.text_content("#problem")
        page.set_input_files("#study", study)
        page.focus("#send")
        page.keyboard.press("Enter")
        page.wait_for_selector("#result:not([hidden])", timeout=120_000)
        assert page.evaluate("document.activeElement.id") == "found"
        frame = page.frame_locator("#page")
        assert "Assessment of a renal mass" in frame.locator("h1").text_content()
        assert frame.locator("img").first.evaluate("image => image.naturalWidth") > 100
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        seen = frame.locator("html").evaluate("page => page.clientWidth")
        widths = frame.locator("caption").evaluate_all("all => all.map(one => one.getBoundingClientRect().right)")
        assert widths
        assert max(widths) <= seen  # read without scrolling, however wide the table is
        page.screenshot(path=str(tmp_path / "serve.png"), full_page=True)
        page.click("#forget")
        page.wait_for_selector("#result", state="hidden")
        page.set_input_files("#study", {"name": "a.zip", "mimeType": "application/zip", "buffer": b"no zip"})
        page.click("#send")
        page.wait_for_selector("#problem:not([hidden])")
        assert "damaged" in page.text_content("#problem")
        assert [one for one in problems if "400" not in one and "sandboxed" not in one] == []
    assert left(scratch) == []
