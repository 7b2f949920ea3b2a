"""Long work tells how far it is, also where nothing can be drawn."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from experiments.runs import console as suite_console
from experiments.runs.console import configure_output, progress_bar


@pytest.mark.parametrize(("terminal", "expected"), [(False, ["kidneys: 20/80, about 0:01:30 left"]), (True, [])])
def test_work_without_a_terminal_says_every_half_minute_how_far_it_is(
    terminal: bool, expected: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_output()
    now = [0.0]
    monkeypatch.setattr(suite_console.time, "monotonic", lambda: now[0])
    screen = Console(file=io.StringIO(), force_terminal=terminal, width=100, get_time=lambda: now[0])
    bar = progress_bar(screen)
    bar.live.auto_refresh = False
    with bar:
        task = bar.add_task("kidneys", total=80)
        for _ in range(25):
            now[0] += 1.5
            bar.advance(task)
    assert capsys.readouterr().out.splitlines() == expected
    assert "kidneys" in screen.file.getvalue()  # type: ignore[attr-defined]
    assert "25/80" in screen.file.getvalue()  # type: ignore[attr-defined]
