"""Reports by a server that is throttled, slow, cut off, confused or closed: nothing lost, nothing paid for twice."""

from __future__ import annotations

import base64
import json
import re
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from datamodules.files import read_json
from datamodules.volumes.shards import VolumeSet
from experiments.cli import main
from experiments.generation import questions
from experiments.generation.chat_client import _read_answer, _retry_after
from experiments.generation.endpoint import server_of
from experiments.generation.generate import _allowed, _job, generate, reports_of
from experiments.generation.records import read_generated
from experiments.generation.systems import Options, WritingJob
from experiments.runs.console import configure_output
from experiments.runs.folders import system_folder
from experiments.runs.pretrained import Pretrained
from lightning_modules.networks.joint.decoding import Decoding
from tests.experiments.aligned_tiny import extra_argument, extra_flags, with_reports
from tests.experiments.generation.stand_in import KEY, Reply, Seen, StandIn, report, stand_in

QUICK = {"model": "m", "slices": 2, "pixels": 16, "wait_s": 0.02, "per_minute": 100_000, "timeout_s": 30}
Cohort6 = tuple[Path, list[str], WritingJob]


@pytest.fixture(scope="module")
def cohort(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Cohort6:
    """A cohort with reports, the flags of its geometry, and the tested kidneys of six patients."""
    folder = tmp_path_factory.mktemp("endpoint")
    configure_output()
    root, flags = with_reports(Path(shutil.copytree(tiny_root, folder / "tiny"))), extra_flags(folder)
    job = _job(Cohort.load(root), root, "demo", Options(folder, decoding=Decoding(20)), 6, flags)
    return root, flags, job


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with stand_in() as running:
        monkeypatch.setenv("RENAL_ENDPOINT_URL", running.url)
        monkeypatch.setenv("RENAL_ENDPOINT_KEY", KEY)
        yield running


def arguments(**changed: Any) -> dict[str, str]:
    return {f"endpoint.{name}": str(value) for name, value in (QUICK | changed).items()}


def ask(cohort: Cohort6, folder: Path, **changed: Any) -> pd.DataFrame:
    """Ask about the kidneys of six patients."""
    options = replace(cohort[2].options, arguments=arguments(**changed))
    return reports_of("endpoint", replace(cohort[2], options=options, folder=folder))


def whole(cohort: Cohort6, runs: Path, tag: str = "", send_images: bool = False, **changed: Any) -> Path:
    """The whole command; the folder of its reports."""
    root, flags, _ = cohort
    generate(
        ["endpoint"], root, runs=runs, pretrained=str(Pretrained(42, tag)), patients=6, max_tokens=20,
        arguments=arguments(**changed), send_images=send_images, extra=flags,
    )  # fmt: skip
    return folder_of(cohort, runs, tag)


def folder_of(cohort: Cohort6, runs: Path, tag: str = "") -> Path:
    return system_folder(runs, cohort[2].cohort, "endpoint", 42, tag)


FAULTS = {
    "throttled": Reply(b'{"error": {"code": "rate_limit_exceeded"}}', 429, {"Retry-After": "0"}),
    "failing": Reply(b"upstream is gone", 503),
    "cut off": Reply(drop=True),
    "not JSON": Reply(b"<html>busy</html>"),
    "no choice": Reply(b'{"choices": [], "usage": null}'),
    "empty": Reply(
        b'{"choices": [{"message": {"content": " "}}], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}'
    ),
    "half": Reply(b'{"choices": [', headers={"Content-Length": "500"}),
}


def test_faults_lose_nothing(cohort: Cohort6, server: StandIn, tmp_path: Path) -> None:
    kinds: dict[str, str] = {}

    def once_each(seen: Seen) -> Reply:
        if seen.before:
            return report(seen)
        kinds[seen.kidney] = list(FAULTS)[len(kinds) % len(FAULTS)]
        return FAULTS[kinds[seen.kidney]]

    server.behave = once_each
    table = ask(cohort, tmp_path / "endpoint", price_in=2.0, price_out=10.0)
    assert len(table) >= len(FAULTS)
    assert set(kinds.values()) == set(FAULTS)
    assert set(server.paid.values()) == {1}
    assert len(server.seen) == 2 * len(table)
    assert {text.split(", ")[1].rstrip(".") for text in table["text"]} == set(server.paid)
    assert (table["tokens"] == 10).all()
    wasted = list(kinds.values()).count("empty")
    spent = read_json(tmp_path / "endpoint/usage.json")
    assert spent["tokens_read"] == 1000 * len(table) + 5 * wasted
    assert spent["cost"] == pytest.approx((2 * spent["tokens_read"] + 10 * spent["tokens_written"]) / 1e6)
    # A lost request is repeated under its own name, one that was answered wrongly is not.
    names: dict[str, list[str]] = {}
    for seen in server.seen:
        names.setdefault(kinds[seen.kidney], []).append(seen.headers["Idempotency-Key"])
    assert len(set(names["cut off"])) * 2 == len(names["cut off"])
    assert len(set(names["not JSON"])) == len(names["not JSON"])


@pytest.mark.slow
def test_a_server_is_obeyed_and_outwaited(cohort: Cohort6, server: StandIn, tmp_path: Path) -> None:
    def busy(seen: Seen) -> Reply:
        if len(server.seen) == 1:
            return Reply(b"", 429, {"Retry-After": "1"})
        if len(server.seen) == 5:
            return Reply(b" " * 8, drip_s=0.4)
        return Reply(report(seen).body, delay_s=2.5 if len(server.seen) == 3 else 0.0)

    server.behave = busy
    kidneys = len(ask(cohort, tmp_path / "endpoint", concurrency=1, timeout_s=1.5))
    assert server.seen[1].at_s - server.seen[0].at_s > 0.95
    assert len(server.seen) == kidneys + 3
    late = server.seen[2].kidney
    assert server.paid == {seen.kidney: 2 if seen.kidney == late else 1 for seen in server.seen}


def test_the_rate_is_kept(cohort: Cohort6, server: StandIn, tmp_path: Path) -> None:
    ask(cohort, tmp_path / "endpoint", per_minute=1200)
    times = sorted(seen.at_s for seen in server.seen)
    assert times[-1] - times[0] > 0.9 * 0.05 * (len(times) - 1)


def test_answers_are_kept_and_asked_once(
    cohort: Cohort6, server: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answered: list[str] = []

    def half(seen: Seen) -> Reply:
        if len(answered) < 4:
            answered.append(seen.kidney)
            return report(seen)
        return Reply(f'{{"error": {{"message": "too\\nlarge for {KEY}"}}}}'.encode(), 400)

    server.behave = half
    with pytest.raises(DataError, match=r"3 kidneys in a row got no answer.*HTTP 400: too large for \.\.\.") as error:
        whole(cohort, tmp_path, concurrency=1, give_up=3)
    assert "the same command goes on" in str(error.value)
    folder = folder_of(cohort, tmp_path)
    assert not (folder / "settings.json").exists()
    asked = len(server.seen)
    assert asked == 7  # a refusal is not repeated

    server.behave = report
    table = read_generated(whole(cohort, tmp_path) / "generated.parquet")
    assert len(server.seen) == asked + len(table) - 4
    assert set(server.paid.values()) == {1}
    assert len(server.paid) == len(table)
    asked = len(server.seen)
    whole(cohort, tmp_path)
    assert "finished already" in capsys.readouterr().out
    ask(cohort, folder.with_name("endpoint-s42-again"))  # another folder, the same questions
    assert len(server.seen) == asked
    ask(cohort, folder, slices=3)
    assert len(server.seen) == asked + len(table)


def test_a_refusal_is_an_answer_and_a_date_a_time() -> None:
    content = {"choices": [{"message": {"content": None, "refusal": "I cannot."}, "finish_reason": "stop"}]}
    assert _read_answer(json.dumps(content).encode()).text == "I cannot."
    wait_s = _retry_after({"Retry-After": formatdate(time.time() + 90, usegmt=True)})
    assert 80 < wait_s <= 90
    assert _retry_after({"Retry-After": "soon"}) == 0


def test_who_cannot_be_answered_is_counted(cohort: Cohort6, server: StandIn, tmp_path: Path) -> None:
    first: list[str] = []

    def one_never(seen: Seen) -> Reply:
        first.append(seen.kidney)
        return Reply(b"{}") if seen.kidney == first[0] else report(seen)

    server.behave = one_never
    with pytest.raises(
        DataError, match=r"^1 of \d+ kidneys have no report by endpoint yet.*the answer held no choice, 2"
    ):
        ask(cohort, tmp_path / "endpoint", attempts=2)
    table = ask(cohort, tmp_path / "endpoint", attempts=2, allowed_failures=1)
    assert (table["text"] == "").sum() == 1
    server.behave = report
    asked = len(server.seen)
    assert (ask(cohort, tmp_path / "endpoint", attempts=2)["text"] != "").all()
    assert [seen.kidney for seen in server.seen[asked:]] == first[:1]


def test_an_interrupted_run_keeps_what_was_under_way(
    cohort: Cohort6, server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.behave = lambda seen: Reply(report(seen).body, delay_s=0.1)
    add, calls = questions.Spending.of, []

    def interrupt(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return add(*args)

    monkeypatch.setattr(questions.Spending, "of", interrupt)
    folder = tmp_path / "endpoint"
    with pytest.raises(KeyboardInterrupt):
        ask(cohort, folder)
    assert len(server.seen) >= 1
    journal = tmp_path / "answers/endpoint.jsonl"
    assert journal.read_text().count("There is a mass") == len(server.seen)
    with journal.open("a") as file:
        file.write('{"key": "torn')  # as a kill leaves it
    table = ask(cohort, folder)
    assert 1 < server.most <= 4
    assert set(server.paid.values()) == {1}
    assert len(server.paid) == len(table)


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (Reply(b'{"error": {"code": "insufficient_quota"}}', 429), "the account is used up"),
        (Reply(b"", 404), "no such model"),
        (Reply(b"", 307, {"Location": "http://192.0.2.1/v1/chat/completions"}), "redirects elsewhere"),
        (Reply(b"", 429, {"Retry-After": "7200"}), "come back in 120 minutes"),
    ],
)
def test_what_no_patience_mends_stops_at_once(
    cohort: Cohort6, server: StandIn, tmp_path: Path, reply: Reply, sentence: str
) -> None:
    server.behave = lambda seen: reply
    with pytest.raises(DataError, match=sentence):
        ask(cohort, tmp_path / "endpoint", concurrency=2)
    assert len(server.seen) <= 2


def test_a_server_that_repeats_the_key_has_it_kept_nowhere(
    cohort: Cohort6, server: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def repeat(seen: Seen) -> Reply:
        sent = seen.headers["Authorization"]
        return Reply(
            report(seen)
            .body.replace(b"There is", f"You sent {sent}. There is".encode())
            .replace(b"stand-in", f"stand-in {KEY}".encode())
        )

    server.behave = repeat
    folder = whole(cohort, tmp_path)
    shown = capsys.readouterr()
    assert "You sent Bearer .... There is a mass" in " ".join(read_generated(folder / "generated.parquet")["text"])
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in path.read_bytes() for path in written)
    assert KEY not in shown.out + shown.err


def test_a_wrong_key_stops_at_once_and_is_written_nowhere(
    cohort: Cohort6, server: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.behave = lambda seen: Reply(f'{{"error": {{"message": "Incorrect key {KEY}"}}}}'.encode(), 401)
    given = ", ".join(f"{name}: {value}" for name, value in arguments(concurrency=2).items())
    command = ["generate", "--systems=[endpoint]", f"--data={cohort[0]}", f"--runs={tmp_path}", "--patients=6"]
    assert main([*command, f"--arguments={{{given}}}", extra_argument(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert "refused the key (HTTP 401); set the one that goes with RENAL_ENDPOINT_URL" in shown.err
    assert len(server.seen) <= 2
    assert all(seen.headers["Authorization"] == f"Bearer {KEY}" for seen in server.seen)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert not any(KEY.encode() in path.read_bytes() for path in written)
    assert KEY not in shown.out + shown.err
    assert KEY not in repr(server_of("endpoint"))


def test_requests_hold_no_identifier(
    cohort: Cohort6, server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # no proxy takes images of a local server elsewhere
    table = ask(cohort, tmp_path / "endpoint")
    texts, names = set(), set()
    for seen in server.seen:
        names |= set(seen.headers)
        assert set(seen.body) == {"model", "messages", "max_tokens", "temperature", "seed"}
        content = seen.body["messages"][1]["content"]
        texts |= {part["text"] for part in content if part["type"] == "text"} | {seen.body["messages"][0]["content"]}
        images = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
        assert len(images) == 4  # two slices of two phases
        for image in images:
            content = base64.b64decode(image.removeprefix("data:image/png;base64,"))
            chunks = re.findall(rb"[A-Za-z]{2}[A-Z][A-Za-z]", content[8:])
            assert {b"IHDR", b"IDAT", b"IEND"} <= set(chunks)
            assert not {b"tEXt", b"zTXt", b"iTXt", b"tIME", b"eXIf"} & set(chunks)
    # The words are those of the file, twice what names the side, whoever the patient is.
    assert len(texts) == 9
    assert {"There is", "I1", "E1", "I2", "E2", "2026"}.isdisjoint(" ".join(texts).split())
    assert not any(key in text for text in texts for key in set(table["patient_id"]) | set(table["study_id"]))
    assert names == {
        "Host", "User-Agent", "Accept-Encoding", "Accept", "Connection", "Idempotency-Key", "Content-Length",
        "Content-Type", "Authorization",
    }  # fmt: skip


def test_no_image_leaves_without_the_flag(
    cohort: Cohort6, server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RENAL_ENDPOINT_URL", f"http://reports.example.org:{server.server_port}/v1")
    looked_up = socket.getaddrinfo

    def elsewhere(host: Any, *args: Any, **options: Any) -> Any:
        return looked_up("127.0.0.1" if host == "reports.example.org" else host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", elsewhere)
    with monkeypatch.context() as patch:
        patch.setattr(VolumeSet, "read", lambda *_: pytest.fail("an image was read"))
        with pytest.raises(DataError, match=r"images of \d+ kidneys of \d+ patients to reports\.example\.org") as error:
            whole(cohort, tmp_path)
    assert "up to 2 axial slices" in str(error.value)
    assert "unencrypted" in str(error.value)
    assert "--send_images=true" in str(error.value)
    options = replace(cohort[2].options, arguments=arguments())
    assert _allowed(["normal", "endpoint"], [replace(cohort[2], options=options)], False, named=False) == ["normal"]
    assert not server.seen
    assert not (tmp_path / "renal/tiny/reports").exists()
    (tmp_path / "netrc").write_text("machine reports.example.org login someone password else")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("NO_PROXY", "reports.example.org")
    whole(cohort, tmp_path, send_images=True)
    assert {seen.headers["Authorization"] for seen in server.seen} == {f"Bearer {KEY}"}
