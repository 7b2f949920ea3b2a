"""Two machines read one epoch from a store: shards of their own, and after a kill each volume once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.datamodules.volumes.two_nodes import module

ROOT = Path(__file__).parents[3]
Remote = tuple[Path, str]


class _Node:
    """A process that stands for a machine."""

    def __init__(self, remote: Remote, folder: Path, number: int) -> None:
        self.out = folder / f"node{number}.jsonl"
        words = [str(remote[0]), remote[1], str(folder / f"cache{number}"), str(number), str(self.out), "8"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.datamodules.volumes.two_nodes", *words],
            cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def step(self) -> bool:
        """Wait for a batch; whether there was one."""
        assert self.process.stdout is not None
        return self.process.stdout.readline() == "step\n"

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def finish(self) -> None:
        self.go_on()
        while self.step():
            self.go_on()
        assert self.process.wait(timeout=60) == 0

    def notes(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.read_text().splitlines()]


@pytest.mark.slow
def test_two_nodes_read_shards_of_their_own_and_a_killed_one_goes_on(remote: Remote, tmp_path: Path) -> None:
    first, second = (_Node(remote, tmp_path, number) for number in range(2))
    for _ in range(2):
        assert first.step()
        first.go_on()
    assert first.step()
    first.process.kill()
    first.process.wait()
    assert second.step()
    second.finish()
    again = _Node(remote, tmp_path, 0)
    assert again.step()
    again.finish()
    seen = [Counter(tuple(row) for note in node.notes() for row in note["rows"]) for node in (again, second)]
    assert sum(seen[0].values()) == sum(seen[1].values()) == 12
    drawn = module(remote[0], remote[1], tmp_path / "cache0", 8).loader("train", shuffled=True)
    whole = Counter(
        (row, int(sample)) for batch in drawn for row, sample in zip(batch["patient_id"], batch["sample"], strict=True)
    )
    assert seen[0] + seen[1] == whole
    patients = [{patient for patient, _ in own} for own in seen]
    assert len(patients[0] & patients[1]) <= 1
    shards = [
        Counter(name for note in node.notes() for name in note["fetched"] if name.endswith(".bin"))
        for node in (again, second)
    ]
    assert set(shards[0].values()) == set(shards[1].values()) == {1}
    assert len(set(shards[0]) & set(shards[1])) <= 1
