"""The machine is measured while a run trains, without a gap in its charts where a run is resumed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from experiments.runs.system_metrics import PREFIX, measured
from experiments.runs.tracking import make_logger, outbox_of, store_client


@pytest.mark.slow
def test_a_run_shows_its_machine_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "renal/mine/rfs/point"
    folder.mkdir(parents=True)
    begun = folder / "run.json"
    begun.write_text("{}")
    os.utime(begun, (time.time() - 100, time.time() - 100))
    for _ in range(2):  # as a process that is killed and one that resumes
        logger = make_logger(tmp_path, folder, "renal/mine/rfs", "point", {"task": "rfs"})
        with measured(outbox_of(folder), begun, seconds=0.4):
            time.sleep(1.0)
        logger.experiment.set_terminated()
        time.sleep(1.1)  # the next second begins
    client = store_client(tmp_path)
    run_id = str(logger.run_id)
    memory = client.get_metric_history(run_id, f"{PREFIX}system_memory_usage_percentage")
    assert len(memory) >= 4
    steps = [point.step for point in memory]
    assert steps == sorted(steps)
    assert 100 <= steps[0] < steps[-1] < 160
    assert memory[-1].value == pytest.approx(psutil.virtual_memory().used / psutil.virtual_memory().total * 100, abs=30)
    assert f"{PREFIX}cpu_utilization_percentage" in client.get_run(run_id).data.metrics


def test_an_error_of_the_training_is_not_hidden(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    make_logger(tmp_path, folder, "e", "run", {})
    with pytest.raises(RuntimeError, match="a broken batch"), measured(outbox_of(folder), folder):
        raise RuntimeError("a broken batch")
