"""`make submit`: each stage of a study waits for what it needs, and a refusal leaves nothing in the queue."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from datamodules.errors import DataError
from experiments.cli import check, main
from experiments.front_door.submission import study

ROOT = Path(__file__).parents[3]
SBATCH = """#!/bin/bash
echo "sbatch $*" >> "$CALLS"
count=$(grep -c ^sbatch "$CALLS")
[ "$count" = "${REFUSE:-0}" ] && { echo "sbatch: error: Invalid partition name" >&2; exit 1; }
echo $((100 + count))
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for sbatch and scancel that note how they were called; the file of their notes."""
    for name, text in (("sbatch", SBATCH), ("scancel", '#!/bin/bash\necho "scancel $*" >> "$CALLS"\n')):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return tmp_path / "calls"


def test_every_stage_waits_for_those_it_needs(calls: Path) -> None:
    words = ["JOB=study", "TASKS=malignancy,rfs", "PROFILE=small", "DATA=data/mine", "FRACTIONS=0.2,1"]
    words += ["POINTS=3", "SBATCH=--partition=gpu --account=renal", "trainer.max_epochs=2", "NODES=2"]
    assert main(["submit", *words]) == 0
    shown = [line.replace(f"{ROOT}/", "").split() for line in calls.read_text().splitlines()]
    found = {
        "-".join(word for word in line if "STAGES=" in word or "TASK=" in word) or line[-3]: line for line in shown
    }
    assert len(shown) == 7
    for line in shown:
        assert line[:5] == ["sbatch", "--parsable", "--export=ALL", "--partition=gpu", "--account=renal"]
        assert "DATA=data/mine" in line
    waits = [[word for word in line if word.startswith("--dependency")] for line in shown]
    none: list[str] = []
    assert waits == [
        none, none, ["--dependency=afterok:101:102"], *[["--dependency=afterok:103"]] * 3,
        ["--dependency=afterok:104:105:106"],
    ]  # fmt: skip
    for name in ("STAGES=image", "STAGES=text", "STAGES=alignment"):
        assert "--nodes=2" in found[name]
        assert found[name][-4:] == [name, "PROFILE=small", "DATA=data/mine", "trainer.max_epochs=2"]
    for task in ("malignancy", "rfs"):
        line = found[f"TASK={task}"]
        assert "--array=0-2" in line
        assert line[line.index("cluster/points.sbatch") :] == [
            "cluster/points.sbatch", "curve", f"TASK={task}", "PROFILE=small", "DATA=data/mine", "FRACTIONS=0.2,1",
            "trainer.max_epochs=2",
        ]  # fmt: skip
    assert shown[-1][-4:] == ["cluster/one.sbatch", "report", "TASKS=malignancy,rfs", "DATA=data/mine"]


def test_what_slurm_refuses_takes_back_what_it_took(
    calls: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REFUSE", "3")
    assert main(["submit", "JOB=study"]) == 2
    assert "SLURM refused a job and those before it were taken back: sbatch: error: Invalid" in capsys.readouterr().err
    assert calls.read_text().splitlines()[-1] == "scancel 101 102"


def test_a_dry_run_prints_and_submits_nothing(calls: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "JOB=study", "DRY_RUN=true"]) == 0
    shown = capsys.readouterr().out
    assert "--dependency=afterok:<image>:<text>" in shown
    assert not calls.exists()


def test_a_single_job_takes_its_options_along(calls: Path) -> None:
    assert main(["submit", "JOB=finetune", "NODES=2", "TASK=rfs", "optimizer.lr=1e-4"]) == 0
    (line,) = calls.read_text().splitlines()
    assert line.endswith(f"--nodes=2 {ROOT}/cluster/train.sbatch finetune TASK=rfs optimizer.lr=1e-4")


def test_an_option_that_no_job_takes_is_refused() -> None:
    with pytest.raises(DataError, match="SOURCE=a is not known to `make submit`"):
        check(["submit", "JOB=study", "SOURCE=a"])
    with pytest.raises(DataError, match="TASKS=rfs is not known"):
        check(["submit", "JOB=finetune", "TASKS=rfs"])
    with pytest.raises(DataError, match="STAGES=image was given; a study submits every stage"):
        study(["STAGES=image"], 4)
    with pytest.raises(DataError, match="POINTS"):
        check(["submit", "JOB=study", "POINTS=-1"])


def test_an_option_of_one_job_leaves_what_another_sets_itself() -> None:
    found = {job.name: job.words for job in study(["TASKS=rfs", "TASK=grade"], 4)}
    assert found["curve-rfs"] == ("curve", "TASK=rfs")
    assert found["zeroshot"] == ("zeroshot", "TASK=grade")


@pytest.mark.parametrize("script", ["train", "points", "one"])
def test_the_scripts_call_make_with_what_they_were_given(script: str, tmp_path: Path) -> None:
    (tmp_path / "make").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / "make").chmod(0o755)
    place = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(tmp_path)}
    place |= {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS_PER_NODE": "4"}
    target = "report" if script == "one" else "curve"
    command = ["bash", str(ROOT / f"cluster/{script}.sbatch"), target, "DATA=a b"]
    done = subprocess.run(command, env=place, capture_output=True, text=True, check=True)
    first, *words = done.stdout.splitlines()
    assert first == f"Job 7, start 1: make {target} DATA=a b"
    assert words[:2] == [target, "DATA=a b"]
    if script != "one":
        assert "LAUNCH=srun --kill-on-bad-exit=1" in words
        refused = subprocess.run([*command[:2], "ui"], env=place, capture_output=True, text=True, check=False)
        assert refused.returncode == 2


def test_each_job_of_a_study_comes_after_what_it_waits_for() -> None:
    seen: set[str] = set()
    for job in study([], 2):
        assert set(job.after) <= seen
        seen.add(job.name)
