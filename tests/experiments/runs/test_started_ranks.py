"""Who may start what over several processes."""

from __future__ import annotations

import pytest

from datamodules.errors import DataError
from experiments.runs import started_ranks as launcher
from experiments.runs.started_ranks import check_launcher, started_ranks, wait_for_main

TORCHRUN = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0",
            "LOCAL_WORLD_SIZE": "1"}  # fmt: skip


def test_several_machines_need_somebody_who_starts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    check_launcher(1)
    assert started_ranks() == 1
    with pytest.raises(DataError, match="neither torchrun nor srun"):
        check_launcher(2)
    with pytest.raises(DataError, match="NODES=0"):
        check_launcher(0)
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    check_launcher(2)
    assert started_ranks() == 2
    with pytest.raises(DataError, match="MODE=probe was started as 2 processes"):
        check_launcher(2, "probe")


def test_a_rank_waits_for_what_the_first_writes_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([False, False, True])
    monkeypatch.setattr(launcher.time, "sleep", lambda seconds: None)
    wait_for_main("table", lambda: next(answers))
    monkeypatch.setattr(launcher, "_PATIENCE_S", -1)
    with pytest.raises(DataError, match="Rank 0 wrote no table within an hour"):
        wait_for_main("table", lambda: False)
