"""Points of a curve over processes: each is run once, and one that fails or dies costs no other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from mlflow.tracking import MlflowClient

from experiments.cli import main
from experiments.finetuning import finetune as finetune_module
from experiments.finetuning.point import Point
from experiments.runs.locks import lease, taken
from experiments.runs.tracking import tracking_uri
from experiments.studies.curve import point_runs as points_module
from experiments.studies.curve.point_runs import LOCK, Outcome, run_point
from tests.experiments.finetuning.test_finetune import TINY

ROOT = Path(__file__).parents[4]
HOLD = (
    "import sys, time; from pathlib import Path; from experiments.runs.locks import lease; "
    "claim = lease(Path(sys.argv[1])); claim.acquire(); print('held', flush=True); time.sleep(120)"
)


def _killed_at_one_point(data: Path, point: Point) -> Outcome:
    if (point.encoder, point.seed) == ("clinical", 2024):
        os.kill(os.getpid(), signal.SIGKILL)
    return run_point(data, point)


def _curve(root: Path, runs: Path, *more: str) -> int:
    short = runs.parent / "tiny.yaml"
    short.write_text(yaml.safe_dump(TINY))
    wanted = ["curve", "--mode=probe", "--fractions=[1.0]", "--seeds=[42,2024]", f"--data={root}", f"--runs={runs}"]
    return main([*wanted, f"--extra={json.dumps([f'--config={short}'])}", *more])


@pytest.mark.slow
def test_points_run_side_by_side_and_one_that_fails_or_dies_costs_no_other(
    sized_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    runs, folder = tmp_path / "runs", tmp_path / "runs/renal/tiny/malignancy"
    other = folder / "size-probe-f1-s2024"
    other.mkdir(parents=True)
    (other / "config.yaml").write_text("seed_everything: 1\n")
    with monkeypatch.context() as patch:
        patch.setattr(points_module, "run_point", _killed_at_one_point)
        assert _curve(sized_root, runs, "--encoders=[size,clinical]", "--jobs=2") == 1
    shown = capfd.readouterr().out
    assert "Failed: clinical-probe-f1-s2024: its process was ended by SIGKILL" in shown
    assert "Failed: size-probe-f1-s2024: Run size-probe-f1-s2024 exists with another configuration" in shown
    assert "2 of 4 points failed; the same command runs them again." in shown
    assert {path.parent.name for path in folder.glob("*/DONE")} == {"size-probe-f1-s42", "clinical-probe-f1-s42"}
    table = pd.read_csv(folder / "curve-probe.csv")
    rows = table.dropna(subset=["value"])
    assert set(rows["encoder"]) == {"size", "clinical"}
    assert set(rows["seeds"]) == {1}
    assert table["note"].str.contains("failed: ").sum() == 2
    client = MlflowClient(tracking_uri(runs))
    (experiment,) = [found for found in client.search_experiments() if found.name == "renal/tiny/malignancy"]
    found = client.search_runs([experiment.experiment_id])
    parents = [run.info.run_id for run in found if str(run.info.run_name).startswith("curve-")]
    assert len(parents) == 1
    children = {run.info.run_name for run in found if run.data.tags.get("mlflow.parentRunId") == parents[0]}
    assert children == {"size-probe-f1-s42", "clinical-probe-f1-s42"}

    # Once more, alone: what died is run although its claim lies there still, what is finished is not.
    assert (folder / "clinical-probe-f1-s2024" / LOCK).exists() is False  # it died before it claimed the point
    (other / "config.yaml").unlink()
    assert _curve(sized_root, runs, "--encoders=[size,clinical]") == 0
    assert "4 points, of which 2 are finished already" in capfd.readouterr().out
    rows = pd.read_csv(folder / "curve-probe.csv").dropna(subset=["value"])
    assert set(rows["seeds"]) == {2}


@pytest.mark.slow
def test_a_point_of_another_process_is_waited_for_and_taken_over_when_that_dies(
    sized_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs, folder = tmp_path / "runs", tmp_path / "runs/renal/tiny/malignancy"
    claim = folder / "size-probe-f1-s42" / LOCK
    worker = subprocess.Popen([sys.executable, "-c", HOLD, str(claim)], stdout=subprocess.PIPE, cwd=ROOT)
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"held\n"
    order: list[str] = []
    finish = finetune_module.finetune

    def ran(point: Point, report: bool = True) -> pd.DataFrame:
        order.append(point.name)
        return finish(point, report)

    def waits(seconds: float) -> None:
        assert order == ["size-probe-f1-s2024"]  # the other point was not held up
        worker.kill()
        worker.wait()

    monkeypatch.setattr(points_module, "finetune", ran)
    monkeypatch.setattr(points_module, "sleep", waits)
    assert _curve(sized_root, runs, "--encoders=[size]") == 0
    assert order == ["size-probe-f1-s2024", "size-probe-f1-s42"]
    assert "1 points are run by other processes; waiting for them" in capsys.readouterr().out
    assert not claim.exists()


def test_a_claim_is_held_once(tmp_path: Path) -> None:
    first, second = lease(tmp_path / "a/.lock"), lease(tmp_path / "a/.lock")
    assert taken(first)
    assert not taken(second)
    content = (tmp_path / "a/.lock").read_text()
    assert f"pid={os.getpid()}" in content
    assert "host=" in content
    first.release()
    assert taken(second)
    second.release()
    assert not (tmp_path / "a/.lock").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--jobs=0",), "JOBS=0: expected at least 1"),
        (("--jobs=2", "--devices=2"), "a point that runs beside others has one"),
    ],
)
def test_bad_jobs_are_refused(
    sized_root: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _curve(sized_root, tmp_path / "runs", "--encoders=[size]", *arguments) == 2
    assert message in capsys.readouterr().err
