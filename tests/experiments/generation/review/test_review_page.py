"""The review page over real HTTP: what a browser is told, what is kept, what is refused."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import requests

from datamodules.errors import DataError
from experiments.cli import main
from experiments.generation.review.ratings import read_ratings
from experiments.generation.review.review import KEY, RATINGS, SETTINGS, Review
from experiments.runs.console import configure_output
from experiments.runs.locks import lease, taken
from tests.experiments.aligned_tiny import with_reports
from tests.experiments.generation.review.made import ATTACK, SYSTEMS, Reader, open_review, served, write_reports

Place = tuple[Path, Path]
PIXELS = """async () => {
  const image = document.querySelector(".axial img"), canvas = document.createElement("canvas");
  await image.decode();
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height).data.reduce((sum, one) => sum + one, 0);
}"""


@pytest.fixture(scope="module")
def place(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A tiny cohort with reports, and runs with those of three systems."""
    folder = tmp_path_factory.mktemp("review")
    root = with_reports(Path(shutil.copytree(tiny_root, folder / "tiny")))
    write_reports(root, folder / "runs")
    return root, folder / "runs"


@pytest.fixture
def review(place: Place, tmp_path: Path) -> Review:
    return open_review(*place, tmp_path)


def _letter_of(review: Review, reviewer: str, number: int, system: str) -> str:
    return next(letter for letter, name in review.letters(reviewer, number).items() if name == system)


def test_no_system_is_told_to_the_browser(place: Place, review: Review) -> None:
    with served(review, place[0]) as address:
        reader = Reader(address)
        assert reader.landed.url == f"{address}/case/1"
        told = [reader.page(number) for number in range(1, 9)]
        static = [reader.http.get(f"{address}/static/{name}").text for name in ("review.js", "scan.js", "review.css")]
        answer = reader.rate(1, "A")
    assert answer.json()["of"] == len(review.cases) == 8
    everything = "\n".join([*told, answer.text, *map(str, answer.headers.items())]).lower()
    for system in (*SYSTEMS, "shuffled", "normal"):
        assert not re.search(rf"\b{system}\b", everything), system
    for path in (*place, review.folder):
        assert str(path).lower() not in everything
    for text in (*told, *static):  # nothing is fetched from elsewhere
        assert not re.search(r"https?:|url\(|@import|[\"'(]//", text)
    key = pd.read_csv(review.folder / KEY)
    assert len(key) == 8 * len(SYSTEMS)
    first = key.pivot_table(index="case", columns="letter", values="system", aggfunc="first")
    assert len(set(first["A"])) > 1
    for number, row in first.iterrows():
        assert row.to_dict() == review.letters("R1", int(number))  # type: ignore[call-overload]


def test_text_is_shown_as_text(place: Place, review: Review) -> None:
    with served(review, place[0]) as address:
        reader = Reader(address)
        comment = '</textarea><script>alert("comment")</script>'
        assert reader.rate(1, "B", comment=comment).status_code == 200
        page = reader.page(1)
        named = requests.post(
            f"{address}/start",
            data={"token": "x" * 43, "reviewer": "<b>R</b>"},
            cookies=requests.get(address).cookies,
        )
        bad = reader.http.post(f"{address}/start", data={"token": reader.token, "reviewer": "<b>R</b>"})
        policy = reader.http.get(f"{address}/case/1").headers["Content-Security-Policy"]
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert escape("<img src=x onerror=alert(1)>") in page
    assert escape("</textarea>") in page
    assert named.status_code == 403
    assert bad.status_code == 400
    assert "<b>R" not in bad.text
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_facts_are_marked_by_colour_and_sign(place: Place, review: Review) -> None:
    number = next(n for n in range(1, 9) if "upper pole" in review.case("R1", n).reference)
    letters = {system: _letter_of(review, "R1", number, system) for system in SYSTEMS}
    with served(review, place[0]) as address:
        page = Reader(address).page(number)
    cards = dict(re.findall(r'<article class="card generated" id="report-(.)"(.*?)</article>', page, re.DOTALL))
    wrong, right, silent = (cards[letters[system]] for system in ("template", "writer", "nearest"))
    assert re.search(r'class="fact wrong"[^>]*pole: lower \(reference: upper\)', wrong)
    assert "✗" in wrong
    assert 'class="fact right"' in right
    assert 'class="fact wrong"' not in right
    assert "lesion present: yes" in silent  # what it leaves out is listed
    assert escape(ATTACK, quote=False).split("(")[0] in wrong
    reference = page[page.index("card reference") : page.index("card generated")]
    assert f"○{letters['nearest']}<" in reference


def test_the_reader_judges_before_the_machine_is_heard(place: Place, review: Review) -> None:
    """The page comes without marks and without their switch; its script gives both when the kidney is rated."""
    with served(review, place[0]) as address:
        page = Reader(address).page(1)
        script = Reader(address).http.get(f"{address}/static/review.js").text
    assert '<body class="unmarked"' in page
    assert 'id="marks" checked disabled' in page
    assert "when all reports of this kidney are rated" in page
    assert "Real report" not in page
    assert "marks.disabled = !cards.every(complete);" in script


@pytest.mark.slow
def test_a_browser_shows_the_scan_as_asked_and_the_marks_when_all_is_rated(
    place: Place, review: Review, browser: Any
) -> None:
    with served(review, place[0]) as address:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        problems: list[str] = []
        page.on("response", lambda one: problems.append(one.url) if one.status >= 400 else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.route("**/favicon.ico", lambda route: route.fulfill(status=204))
        page.goto(address)
        page.fill("input[name=reviewer]", "R1")
        page.press("input[name=reviewer]", "Enter")
        page.wait_for_selector(".axial img[src]")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        soft, source = page.evaluate(PIXELS), page.get_attribute(".axial img", "src")
        page.keyboard.press("w")
        page.wait_for_function("before => document.querySelector('.axial img').src !== before", arg=source)
        assert page.evaluate(PIXELS) != soft
        assert "−10 to +190 HU" in page.evaluate("scanWindow.selectedOptions[0].text")
        image, frame = page.locator(".axial img"), page.locator(".axial .view")
        plain, view = image.bounding_box(), frame.bounding_box()
        for _ in range(2):
            page.keyboard.press("+")
        assert page.text_content("output[for=zoom]") == "2 ×"
        assert problems == []
        large = image.bounding_box()
        assert large["width"] == pytest.approx(2 * plain["width"], rel=0.01)
        assert large["x"] == pytest.approx(view["x"] - view["width"] / 2, abs=1)  # about the middle
        page.mouse.move(view["x"] + 50, view["y"] + 50)
        page.mouse.down()
        page.mouse.move(view["x"] + 2000, view["y"] + 50, steps=4)
        page.mouse.up()
        assert image.bounding_box()["x"] == pytest.approx(view["x"], abs=1)  # its edge goes no further than the frame's
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate("document.body.classList.contains('unmarked')")
        for letter in "ABC":
            assert page.is_disabled("#marks")
            for name, value in (("quality", "4"), ("errors", "minor")):
                page.check(f"#report-{letter} input[name={name}][value='{value}']", force=True)
        page.wait_for_function("!document.body.classList.contains('unmarked')")
        assert page.is_enabled("#marks")
        page.wait_for_function("document.getElementById('rated').textContent.startsWith('1 of')")
        assert problems == []
    assert [row.marks_visible for row in review.ratings.rows()] == [False] * 3


def test_ratings_survive_a_restart_and_are_replaced(place: Place, review: Review, tmp_path: Path) -> None:
    with served(review, place[0]) as address:
        reader = Reader(address)
        assert reader.rate(1, "A", quality=None, errors="", comment="first thought").json()["complete"] is False
        for letter in "ABC":
            state = reader.rate(1, letter, quality=4, errors="none", marks_visible=letter == "A").json()
        assert (state["rated"], state["finished"]) == (1, True)
        assert reader.rate(2, "C", quality=2, comment="half").json()["rated"] == 1
        other = Reader(address, "R2")
        assert other.landed.url == f"{address}/case/1"
        assert "0 of 8 rated" in other.landed.text
    again = open_review(*place, tmp_path)
    with served(again, place[0]) as address:
        reader = Reader(address)
        assert reader.landed.url == f"{address}/case/2"  # the first that is not finished
        assert "1 of 8 rated" in reader.landed.text
        assert ">half</textarea>" in reader.landed.text
        assert reader.http.get(f"{address}/next?after=7").url == f"{address}/case/8"
        assert reader.http.get(f"{address}/next?after=8").url == f"{address}/case/2"
        reader.rate(1, "A", quality=1, errors="major")
        for number in range(2, 9):
            for letter in "ABC":
                reader.rate(number, letter)
        assert "All 8 kidneys are rated" in reader.http.get(f"{address}/next").text
    rows = read_ratings(tmp_path / RATINGS)
    assert len(rows) == 8 * 3
    first = next(row for row in rows if (row.case, row.letter) == (1, "A"))
    assert (first.quality, first.errors, first.marks_visible) == (1, "major", True)
    for row in rows:
        assert row.system == again.letters("R1", row.case)[row.letter]
        assert (row.patient_id, row.study_id, row.side) == again.case("R1", row.case).key
        assert "ABC"[row.position - 1] == row.letter
    with (tmp_path / RATINGS).open(newline="") as handle:
        assert {row["system"] for row in csv.DictReader(handle)} == set(SYSTEMS)


@pytest.mark.parametrize(
    "said",
    [
        {"quality": 7}, {"quality": 0}, {"quality": True}, {"quality": "3"}, {"errors": "fatal"}, {"errors": None},
        {"comment": "x" * 4001}, {"comment": 3}, {"seconds": -1}, {"seconds": float("nan")}, {"marks_visible": 1},
        {"system": "writer"},
    ],
)  # fmt: skip
def test_what_is_no_rating_is_refused(running: tuple[str, Review, Reader], said: dict[str, object]) -> None:
    _, review, reader = running
    assert reader.rate(1, "A", **said).status_code == 400
    assert len(review.ratings) == 0


@pytest.fixture(scope="module")
def running(place: Place, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A server that refuses what it is given, for many tests."""
    review = open_review(*place, tmp_path_factory.mktemp("refusing"))
    with served(review, place[0]) as address:
        yield address, review, Reader(address)


def test_strangers_are_refused(running: tuple[str, Review, Reader]) -> None:
    address, review, reader = running
    assert reader.rate(1, "A", token="").status_code == 403
    assert reader.rate(1, "A", token=Reader(address, "R2").token).status_code == 403
    assert reader.rate(9, "A").status_code == 404
    assert reader.rate(0, "A").status_code == 404
    assert reader.rate(1, "D").status_code == 404
    assert (
        reader.http.post(f"{address}/rate", data="not json", headers={"X-Review-Token": reader.token}).status_code
        == 400
    )
    assert reader.http.get(f"{address}/case/9").status_code == 404
    assert reader.http.get(f"{address}/rate").status_code == 405
    assert reader.http.post(f"{address}/rate", data="x" * 70_000).status_code in (403, 413)
    for path in ("/case/1/0/axial/0.png", "/rate"):
        stranger = requests.get(address + path, headers={"Accept": "image/png"}, allow_redirects=False)
        assert stranger.status_code in (401, 405)
    assert requests.get(f"{address}/case/1", headers={"Accept": "text/html"}).url == f"{address}/"
    assert requests.get(f"{address}/static/../ratings.py").status_code == 404
    # A name that someone else points at this machine.
    for host in ("evil.example", f"evil.example:{address.rsplit(':', 1)[1]}", "127.0.0.1.evil.example"):
        assert reader.http.get(f"{address}/case/1", headers={"Host": host}).status_code == 400
    assert len(review.ratings) == 0


def test_the_scan_is_drawn(running: tuple[str, Review, Reader]) -> None:
    address, _, reader = running
    answer = reader.http.get(f"{address}/case/1/0/axial/0.png?outline")
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.content.startswith(b"\x89PNG")
    bone = reader.http.get(f"{address}/case/1/0/axial/0.png?outline&window=bone")
    assert bone.content.startswith(b"\x89PNG")
    assert bone.content != answer.content
    for path in (
        "/case/1/0/axial/0.png?window=lung",
        "/case/1/0/axial/8.png",
        "/case/1/9/axial/0.png",
        "/case/1/0/oblique/0.png",
        "/case/9/0/axial/0.png",
    ):
        assert reader.http.get(address + path).status_code == 404


def test_ratings_of_other_reports_are_not_mixed(place: Place, review: Review, tmp_path: Path) -> None:
    review.ratings.save(review.rating("R1", 1, "A"))
    with pytest.raises(DataError, match=r"1 ratings of other reports \(seed\)"):
        open_review(*place, tmp_path, seed=1)


@pytest.mark.slow
def test_a_killed_server_has_lost_nothing_and_the_means_are_printed(
    place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root, runs = place
    out = tmp_path / "out"
    command = ["review", f"--data={root}", f"--runs={runs}", f"--out={out}", "--port=0", "--patients=2"]
    configure_output()
    assert main([*command, "--export=summary"]) == 2
    assert "rate reports with `make review` first" in capfd.readouterr().err
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "experiments", *command], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        address = next(found[0] for line in process.stdout if (found := re.search(r"http://[\d.:]+\d", line)))
        reader = Reader(address)
        for letter in "ABC":
            assert reader.rate(1, letter, quality=5, errors="none").status_code == 200
        assert main([*command, "--profile="]) == 2
        assert "serves the review" in capfd.readouterr().err
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert {path.name for path in out.iterdir() if not path.name.startswith(".")} == {RATINGS, KEY, SETTINGS}
    assert [row.quality for row in read_ratings(out / RATINGS)] == [5, 5, 5]
    assert taken(lease(out / ".serving"))  # the dead process holds no claim
    assert main([*command, "--export=summary"]) == 0
    shown = capfd.readouterr().out
    assert "1 patients, 1 kidneys, 1 reviewers" in shown
    assert "5.000 (1.100 to 5.000)" in shown  # of one patient
    table = pd.read_csv(out / "summary.csv")
    assert set(table["system"]) == set(SYSTEMS)


def test_bad_requests_are_refused(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, runs = place
    base = ["review", f"--data={root}", f"--out={tmp_path}"]
    for flags, message in (
        ([f"--runs={tmp_path}"], "run `make generate` first"),
        ([f"--runs={runs}", "--systems=[writr]"], "Did you mean writer"),
        ([f"--runs={runs}", "--systems=[writer,writer]"], "each system once"),
        ([f"--runs={runs}", "--patients=0"], "at least 1"),
        ([f"--runs={runs}", "--port=70000"], "PORT=70000"),
        ([f"--runs={runs}", "--export=everything"], "EXPORT=everything"),
    ):
        assert main([*base, *flags]) == 2
        assert message in capsys.readouterr().err
