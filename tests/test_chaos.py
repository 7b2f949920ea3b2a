"""What `make chaos` counts is as many and as hostile as it says; the run itself takes too long for these tests."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.chaos import sandbox
from tests.chaos.__main__ import INPUTS
from tests.chaos.commands import COMMANDS
from tests.chaos.faults import all_faults
from tests.chaos.flows import FLOWS
from tests.chaos.sandbox import Answer, Case, judge
from tests.chaos.stage import Stage


def test_inputs_and_faults_are_many_and_follow_the_seed(tmp_path: Path) -> None:
    stage = Stage(tmp_path)

    def names(seed: int) -> list[str]:
        return [
            f"{case.kind} {case.name}"
            for part, (make, count) in enumerate(INPUTS)
            for case in make(stage, np.random.default_rng([seed, part]), count)
        ]

    assert len(names(0)) >= 280
    assert names(0) == names(0) != names(1)
    faults = list(all_faults(0))
    assert len(faults) >= 70
    assert {fault.command for fault in faults} <= set(COMMANDS)
    assert Counter(fault.kind for fault in faults).keys() == {
        "disk", "permission", "memory", "file", "store", "worker", "twice", "signal"
    }  # fmt: skip
    assert len({flow.name for flow in FLOWS}) == len(FLOWS) >= 16


@pytest.mark.parametrize(
    ("code", "text", "writes", "outcome"),
    [
        (2, "error: refused", None, "refused"),
        (2, "", None, "silent"),
        (0, "done", None, "silent"),
        (1, "Traceback (most recent call last)", None, "trace"),
        (1, "error: Unexpected TypeError in x.py, line 1: a defect of the suite; its trace is in y", None, "trace"),
        (None, "", None, "hung"),
        (-9, "", None, "silent"),
        (2, "error: refused", "CANARY", "executed"),
        (2, "error: refused", "../../escaped", "executed"),
    ],
)
def test_what_became_of_an_input_is_told_apart(
    code: int | None,
    text: str,
    writes: str | None,
    outcome: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ask(arguments: list[str], folder: Path) -> Answer:
        if writes is not None:
            (folder / writes).touch()
        return Answer(code, text, 0.0)

    monkeypatch.setattr(sandbox, "ask", ask)
    assert judge(Case("x", "y", lambda folder: []), tmp_path / "case")[0] == outcome


@pytest.mark.slow
def test_a_command_is_run_in_its_folder_and_one_that_does_not_end_is_hung(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def main(arguments: list[str]) -> int:
        Path("here").write_text(arguments[0])
        if arguments[0] == "wait":
            signal.pause()
        os.write(1, b"ended\n")
        return 7

    monkeypatch.setattr("experiments.cli.main", main)
    answer = sandbox.ask(["go"], tmp_path)
    assert (answer.code, answer.sentence) == (7, "ended")
    assert (tmp_path / "here").read_text() == "go"
    assert sandbox.ask(["wait"], tmp_path, limit_s=1).code is None
