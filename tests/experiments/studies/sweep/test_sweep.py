"""Sweeps through the real command: closed test, interrupted and dead workers, parameters in MLflow, best values."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pandas as pd
import pytest
import yaml
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from optuna.pruners import BasePruner, ThresholdPruner
from optuna.trial import TrialState
from sklearn.metrics import roc_auc_score

from datamodules.cohort.cohort import Cohort
from experiments.cli import main
from experiments.runs.tracking import tracking_uri
from experiments.studies.sweep import optuna_study as study_module
from experiments.studies.sweep import storage as storage_module
from experiments.studies.sweep import trials as trials_module
from experiments.studies.sweep.storage import STORAGE_VARIABLE
from experiments.studies.sweep.trials import LOCK
from tests.experiments.finetuning.test_finetune import TINY

SPACE = {
    "optimizer.lr": {"type": "float", "low": 1.0e-4, "high": 1.0e-2, "log": True},
    "model.init_args.hidden": {"type": "categorical", "choices": [0, 128]},
}
NAME = "sweep-scratch-f1-s42-small"


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, Path]:
    """Flags of a short training, and a small search space."""
    short, space = tmp_path / "tiny.yaml", tmp_path / "small.yaml"
    short.write_text(yaml.safe_dump(TINY))
    space.write_text(yaml.safe_dump(SPACE))
    return json.dumps([f"--config={short}"]), space


def _sweep(root: Path, runs: Path, files: tuple[str, Path], *more: str) -> int:
    flags, space = files
    return main(["sweep", f"--data={root}", f"--runs={runs}", f"--space={space}", f"--extra={flags}", *more])


def _study(runs: Path, task: str = "malignancy") -> optuna.Study:
    folder = runs / f"renal/tiny/{task}/{NAME}"
    return optuna.load_study(study_name=None, storage=f"sqlite:///{folder / 'study.db'}")


def _tested_shards(root: Path) -> list[Path]:
    patients = Cohort.load(root).patients()
    tested = set(patients[(patients["split"] == "test") & (patients["role"] != "pretrain")]["patient_id"])
    tested |= set(patients[patients["role"] == "external"]["patient_id"])
    (path,) = root.glob("volumes/*/index.parquet")
    index = pd.read_parquet(path)
    shards = set(index[index["patient_id"].isin(tested)]["shard"])
    assert shards.isdisjoint(index[~index["patient_id"].isin(tested)]["shard"])
    return [path.parent / "shards" / name for name in sorted(shards)]


def _interrupting(at: int, train: Callable[..., object]) -> Callable[..., object]:
    calls: list[int] = []

    def interrupted(*arguments: object, **more: object) -> object:
        calls.append(1)
        if len(calls) == at:
            raise SystemExit(1)  # what Lightning makes of Ctrl-C
        return train(*arguments, **more)

    return interrupted


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on_and_never_opens_the_test(
    tiny_copy: Path,
    tmp_path: Path,
    files: tuple[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Test patients have no readable volume during the trials; a single read of one would fail."""
    shards = _tested_shards(tiny_copy)
    assert len(shards) > 20
    aside = {path: path.read_bytes() for path in shards}
    for path in shards:
        path.write_bytes(b"")
    runs, folder = tmp_path / "runs", tmp_path / f"runs/renal/tiny/malignancy/{NAME}"
    with monkeypatch.context() as patch:
        patch.setattr(trials_module, "train", _interrupting(3, trials_module.train))
        assert _sweep(tiny_copy, runs, files, "--trials=4") == 130
    before = _study(runs).get_trials()
    states = [trial.state for trial in before]
    assert states == [TrialState.COMPLETE] * 2 + [TrialState.FAIL, TrialState.WAITING]
    assert not (folder / "best.yaml").exists()

    assert _sweep(tiny_copy, runs, files, "--trials=4") == 0
    shown = capsys.readouterr().out
    assert "4 trials, of which 2 are finished already" in shown
    assert "Trial 3, going on with trial 2" in shown
    study = _study(runs)
    after = study.get_trials()
    assert [trial.value for trial in after[:2]] == [trial.value for trial in before[:2]]
    assert after[3].params == before[2].params
    assert sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in after) == 4
    assert after[0].params == {"optimizer.lr": 1e-3, "model.init_args.hidden": 128}  # the configuration's own
    for trial in after:
        if trial.state == TrialState.COMPLETE:
            place = trial.system_attrs.get("failed_trial", trial.number)
            found = pd.read_parquet(folder / f"trial-{place:04d}/validation.parquet")
            assert set(found["part"]) == {"val"}
            assert set(found["role"]) == {"internal"}
            assert trial.value == pytest.approx(roc_auc_score(found["target"], found["score_malignant"]))
            assert (trial.user_attrs["n"], trial.user_attrs["positives"]) == (len(found), found["target"].sum())
    assert not list(folder.glob("trial-*/checkpoints"))
    _check_left(folder, study, shown)
    _check_tracked(runs, study)

    for path, content in aside.items():
        path.write_bytes(content)
    assert _sweep(tiny_copy, runs, files, "--trials=4", "--finish=true") == 0
    shown = capsys.readouterr().out
    assert "4 trials, of which 4 are finished already" in shown
    point = folder.parent / "scratch-finetune-f1-s42-sweep"
    resolved = yaml.safe_load((point / "config.yaml").read_text())
    assert resolved["optimizer"]["lr"] == pytest.approx(study.best_params["optimizer.lr"])
    assert "pooled external" in set(pd.read_csv(point / "results.csv")["group"])
    assert len(_study(runs).get_trials()) == len(after)
    _check_tracked(runs, study)
    # The file gives the same configuration as --finish did: that run is finished already.
    flags, _ = files
    arguments = ["finetune", "--task=malignancy", "--tag=sweep", f"--data={tiny_copy}", f"--runs={runs}"]
    assert main([*arguments, f"--extra={flags}", f"--params={folder / 'best.yaml'}"]) == 0
    assert "is finished already" in capsys.readouterr().out


def _check_left(folder: Path, study: optuna.Study, shown: str) -> None:
    table = pd.read_csv(folder / "trials.csv")
    assert table["state"].value_counts()["complete"] == len(study.get_trials(states=(TrialState.COMPLETE,)))
    best = yaml.safe_load((folder / "best.yaml").read_text())
    assert best["optimizer"]["lr"] == pytest.approx(study.best_params["optimizer.lr"])
    assert best["model"]["init_args"]["hidden"] == study.best_params["model.init_args.hidden"]
    assert (folder / "history.png").stat().st_size > 10_000
    assert f"trial {study.best_trial.number}, validation AUC" in shown
    assert "The configuration's own values: trial 0" in shown
    assert "no trial opened the test" in shown


def _tracked(runs: Path) -> tuple[Run, list[Run], MlflowClient]:
    client = MlflowClient(tracking_uri(runs))
    experiment = client.get_experiment_by_name("renal/tiny/malignancy")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in found if run.data.tags.get("sweep") == NAME and "trial" not in run.data.tags]
    children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    return parent, children, client


def _check_tracked(runs: Path, study: optuna.Study) -> None:
    parent, children, client = _tracked(runs)
    trials = {trial.system_attrs.get("failed_trial", trial.number): trial for trial in study.get_trials()}
    assert sorted(int(run.data.tags["trial"]) for run in children) == sorted(trials)
    for run in children:
        trial = trials[int(run.data.tags["trial"])]
        assert run.info.status == "FINISHED"
        assert float(run.data.params["sweep/optimizer.lr"]) == trial.params["optimizer.lr"]
        if trial.state == TrialState.COMPLETE:
            assert run.data.metrics["sweep/value"] == trial.value
        assert "test/auroc" not in run.data.metrics
    history = {entry.step: entry.value for entry in client.get_metric_history(parent.info.run_id, "sweep/value")}
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    assert history == {trial.number: trial.value for trial in complete}
    assert parent.data.metrics["sweep/best"] == study.best_value
    names = {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
    assert {"trials.csv", "history.png", "best.yaml"} <= names


@pytest.mark.slow
def test_a_trial_of_a_killed_worker_is_failed_and_queued_again(
    tiny_root: Path, tmp_path: Path, files: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker is killed for good while it holds a trial; a pruned trial is tracked as such."""
    runs, folder = tmp_path / "runs", tmp_path / f"runs/renal/tiny/malignancy/{NAME}"

    def pruner(name: str, epochs: int) -> BasePruner:
        return ThresholdPruner(lower=2.0)

    monkeypatch.setattr(study_module, "make_pruner", pruner)
    assert _sweep(tiny_root, runs, files, "--trials=1") == 2  # none was trained to its end
    study = _study(runs)
    assert [trial.state for trial in study.get_trials()] == [TrialState.PRUNED]
    _, (run,), _ = _tracked(runs)
    assert run.data.tags["trial_state"] == "pruned"
    assert list(pd.read_csv(folder / "trials.csv")["state"]) == ["pruned"]

    left = study.ask({"optimizer.lr": optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True)})
    claim = folder / f"trial-{left.number:04d}" / LOCK
    hold = (
        "import sys, time; from pathlib import Path; from experiments.runs.locks import lease; "
        "claim = lease(Path(sys.argv[1])); claim.acquire(); print('held', flush=True); time.sleep(60)"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", hold, str(claim)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[4]
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"held\n"
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert claim.is_file()
    assert _sweep(tiny_root, runs, files, "--trials=2") == 2
    first, failed, again = study.get_trials()
    assert (first.state, failed.state, again.state) == (TrialState.PRUNED, TrialState.FAIL, TrialState.PRUNED)
    assert again.params["optimizer.lr"] == failed.params["optimizer.lr"]
    assert not claim.is_file()


@pytest.mark.slow
def test_a_password_reaches_no_file_and_no_log(
    tiny_root: Path,
    tmp_path: Path,
    files: tuple[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = "postgresql://anna:geheim@localhost:1/sweeps?sslpassword=geheim"
    monkeypatch.setenv(STORAGE_VARIABLE, url)
    made, asked = storage_module.RDBStorage, []

    def local(found: str, **options: object) -> object:
        asked.append(found)
        return made(f"sqlite:///{tmp_path / 'elsewhere.db'}")

    runs, folder = tmp_path / "runs", tmp_path / f"runs/renal/tiny/malignancy/{NAME}"
    with monkeypatch.context() as patch:
        patch.setattr(storage_module, "RDBStorage", local)
        assert _sweep(tiny_root, runs, files, "--trials=1") == 0
    assert asked == [url]
    assert json.loads((folder / "trial-0000/run.json").read_text())["arguments"]["storage"].startswith(
        "postgresql://anna:***@localhost:1/sweeps"
    )
    # The server is not there, or its driver is not: either way one sentence, without the password.
    assert _sweep(tiny_root, runs, files, "--trials=1") == 2
    shown = capsys.readouterr()
    assert "STORAGE=postgresql://anna:***@localhost:1/sweeps" in shown.err
    assert "geheim" not in shown.out + shown.err
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in written if b"geheim" in path.read_bytes()] == []
    # What a run keeps cannot be connected to, and says so.
    monkeypatch.delenv(STORAGE_VARIABLE)
    assert main(["resume", str(folder / "trial-0000"), "--runs", str(runs)]) == 2
    assert "has its password taken out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--mode=probe",), "nothing to sweep"),
        (("--encoder=size",), "nothing to sweep"),
        (("--task=all",), "TASK=all was asked for"),
        (("--trials=0",), "TRIALS=0: expected at least 1"),
        (("--pruner=medain",), "Did you mean median?"),
        (("--space=finetun",), "Did you mean finetune?"),
        (("--devices=2",), "Start one `make sweep` per device"),
        (("--encoder=stage1",), "make pretrain STAGES=image"),
        (("--fraction=0.01",), "The smallest fraction that works is"),
    ],
)
def test_bad_input_is_refused_before_the_first_trial(
    tiny_root: Path,
    tmp_path: Path,
    files: tuple[str, Path],
    arguments: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = tmp_path / "runs"
    assert _sweep(tiny_root, runs, files, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not runs.exists()


def test_a_cohort_of_folds_is_refused(
    tiny_folds_root: Path, tmp_path: Path, files: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _sweep(tiny_folds_root, tmp_path / "runs", files) == 2
    assert "tested on the same patients in another" in capsys.readouterr().err


@pytest.mark.slow
def test_another_space_under_the_same_name_is_refused(
    tiny_root: Path, tmp_path: Path, files: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    runs, (_, space) = tmp_path / "runs", files

    def stop(*arguments: object, **more: object) -> object:
        raise SystemExit(1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials_module, "train", stop)
        assert _sweep(tiny_root, runs, files) == 130
    wider = SPACE | {"optimizer.lr": SPACE["optimizer.lr"] | {"high": 1.0e-1}}
    space.write_text(yaml.safe_dump(wider))
    assert _sweep(tiny_root, runs, files) == 2
    assert "exists with other settings (space optimizer.lr" in capsys.readouterr().err
    shutil.rmtree(runs)
