"""The command line end to end on a tiny cohort: runs, resumes, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from mlflow.tracking import MlflowClient

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.splits import SPLIT_HASH
from datamodules.files import read_parquet, write_parquet
from datamodules.volumes.shards import VolumeSet
from experiments.cli import main
from experiments.runs.tracking import tracking_uri

TINY = {
    "contract": {"grid": [8, 12, 12]},
    "augmentation": {"crop": [8, 10, 10]},
    "encoder": {"width": 4, "depth": 10, "stem_pool": True},
    "optimizer": {"lr": 0.003},
    "trainer": {"max_epochs": 2, "accelerator": "cpu"},
    "data": {"init_args": {"samples_per_epoch": None}},
}


@pytest.fixture
def tiny_config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


def _finetune(
    root: Path, runs: Path, config: Path, *extra: str, task: str = "malignancy", fraction: float = 1.0
) -> int:
    return main(
        [
            "finetune", f"--task={task}", f"--fraction={fraction}", f"--data={root}", f"--runs={runs}",
            "--extra=" + json.dumps([f"--config={config}", *extra]),
        ]
    )  # fmt: skip


@pytest.mark.slow
def test_finetune_leaves_a_complete_run(
    tiny_root: Path, tmp_path: Path, tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    assert _finetune(tiny_root, runs, tiny_config) == 0
    shown = capsys.readouterr().out
    assert "pooled external" in shown
    assert "Phantom results" in shown
    assert "rendered" in shown
    folder = runs / "renal/tiny/malignancy/scratch-finetune-f1-s42"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "DONE", "run.json", "mlflow.json", "config.yaml", "predictions.parquet", "results.csv", "roc.png",
        "data.parquet", "training_data.parquet", "calibration.json",
        "checkpoints/best.ckpt", "checkpoints/last.ckpt",
    }  # fmt: skip
    table = pd.read_csv(folder / "results.csv").set_index("group")
    assert list(table.index) == ["internal test", "external E1", "external E2", "pooled external"]
    predictions = pd.read_parquet(folder / "predictions.parquet")
    patients = Cohort.load(tiny_root).patients()
    tested = patients[(patients["split"] == "test") & (patients["role"] != "pretrain")]
    validated = patients[(patients["split"] == "val") & (patients["role"] == "internal")]
    for part, expected in (("test", tested), ("val", validated)):
        assert sorted(predictions.loc[predictions["part"] == part, "patient_id"]) == sorted(expected["patient_id"])
    assert table["n"].to_dict() == {"internal test": 6, "external E1": 12, "external E2": 12, "pooled external": 24}

    client = MlflowClient(tracking_uri(runs))
    experiment = client.get_experiment_by_name("renal/tiny/malignancy")
    logged = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    child = logged["scratch-finetune-f1-s42"]
    parent = next(run for name, run in logged.items() if name.startswith("curve-"))
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.params["fraction"] == "1.0"
    assert child.data.params["seed"] == "42"
    assert child.data.tags["split_hash"] == Cohort.load(tiny_root).split_hash
    assert child.data.metrics["n/pooled_external"] == 24
    assert child.info.status == "FINISHED"

    # Finished work is reported, not run again; another configuration is refused.
    before = (folder / "checkpoints/best.ckpt").stat().st_mtime_ns
    assert _finetune(tiny_root, runs, tiny_config) == 0
    assert (folder / "checkpoints/best.ckpt").stat().st_mtime_ns == before
    assert "finished already" in capsys.readouterr().out
    assert _finetune(tiny_root, runs, tiny_config, "--optimizer.lr=0.5") == 2
    assert "optimizer.lr: 0.003 there, 0.5 here" in capsys.readouterr().err


@pytest.mark.slow
def test_no_path_and_no_identifier_leave_the_run_folder(tiny_root: Path, tmp_path: Path, tiny_config: Path) -> None:
    runs = tmp_path / "runs"
    assert _finetune(tiny_root, runs, tiny_config) == 0
    folder = runs / "renal/tiny/malignancy/scratch-finetune-f1-s42"
    for name in ("best.ckpt", "last.ckpt"):
        content = torch.load(folder / "checkpoints" / name, weights_only=True)
        text = repr({key: value for key, value in content.items() if key not in ("state_dict", "optimizer_states")})
        assert str(tmp_path) not in text
        assert str(tiny_root) not in text
        assert "I1-000" not in text
    client = MlflowClient(tracking_uri(runs))
    experiment = client.get_experiment_by_name("renal/tiny/malignancy")
    for run in client.search_runs([experiment.experiment_id]):
        said = repr((run.data.params, {k: v for k, v in run.data.tags.items() if not k.startswith("mlflow.")}))
        assert str(tiny_root.parent) not in said
    for artifact in (runs / "mlartifacts").rglob("config.yaml"):
        assert str(tiny_root.parent) not in artifact.read_text()
        assert str(tmp_path) not in artifact.read_text()


def test_same_seed_fractions_are_nested(tiny_root: Path, tmp_path: Path, tiny_config: Path) -> None:
    from experiments.runs.configuration import Configuration, datamodule_of

    def chosen(fraction: float) -> set[str]:
        values = {"data.init_args.root": tiny_root, "data.init_args.fraction": fraction}
        names = {"profile": "demo", "encoder": "scratch", "task": "malignancy"}
        flags = [f"--config={tiny_config}"]
        patients = datamodule_of(Configuration.of("finetune", values=values, flags=flags, **names)).plan.patients
        return set(patients.loc[patients["part"] == "train", "patient_id"])

    small, large, full = chosen(0.7), chosen(0.9), chosen(1.0)
    assert small < large < full


@pytest.mark.slow
def test_interrupted_training_resumes_to_the_same_weights(
    tiny_root: Path, tmp_path: Path, tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lightning

    assert _finetune(tiny_root, tmp_path / "whole", tiny_config) == 0

    def interrupt(self: object, trainer: lightning.Trainer, *_: object) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr("callbacks.progress.Throughput.on_train_epoch_start", interrupt)
        with pytest.raises(RuntimeError, match="power cut"):
            _finetune(tiny_root, tmp_path / "cut", tiny_config)
    folder = Path("renal/tiny/malignancy/scratch-finetune-f1-s42")
    assert not (tmp_path / "cut" / folder / "DONE").exists()
    assert main(["resume", str(tmp_path / "cut" / folder), f"--runs={tmp_path / 'cut'}"]) == 0
    whole, cut = (
        torch.load(tmp_path / name / folder / "checkpoints/last.ckpt", weights_only=True) for name in ("whole", "cut")
    )
    assert whole["global_step"] == cut["global_step"]
    assert whole["epoch"] == cut["epoch"] == 1
    for name, value in whole["state_dict"].items():
        torch.testing.assert_close(cut["state_dict"][name], value, rtol=0, atol=0)
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "whole" / folder / "predictions.parquet"),
        pd.read_parquet(tmp_path / "cut" / folder / "predictions.parquet"),
    )
    run_id = json.loads((tmp_path / "cut" / folder / "mlflow.json").read_text())["run_id"]
    assert main(["resume", run_id, f"--runs={tmp_path / 'cut'}"]) == 0
    assert main(["resume", "nothing-here", f"--runs={tmp_path / 'cut'}"]) == 2


@pytest.mark.slow
def test_folds_test_everyone_once_and_pool(tiny_folds_root: Path, tmp_path: Path, tiny_config: Path) -> None:
    runs = tmp_path / "runs"
    assert _finetune(tiny_folds_root, runs, tiny_config, "--trainer.max_epochs=1") == 0
    folder = runs / "renal/tiny/malignancy/scratch-finetune-f1-s42"
    pooled = pd.read_parquet(folder / "predictions.parquet")
    tested = pooled.loc[pooled["part"] == "test", "patient_id"]
    assert sorted(tested) == sorted(Cohort.load(tiny_folds_root)["patients"]["patient_id"])
    assert pd.read_csv(folder / "results.csv")["group"].tolist() == ["out-of-fold"]
    assert all((folder / f"fold{fold}" / "DONE").is_file() for fold in range(5))


@pytest.mark.slow
def test_pretrain_trains_on_pretraining_centres_only(
    tiny_root: Path, tmp_path: Path, tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "pretrain",
        '--stages=["supervised"]',
        f"--data={tiny_root}",
        f"--runs={tmp_path}",
        "--extra=" + json.dumps([f"--config={tiny_config}"]),
    ]
    assert main(arguments) == 0
    assert "95 % interval" in capsys.readouterr().out
    assert main(arguments) == 0
    assert "finished already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["finetune", "--task=malignacy"], "rfs, dss, os. Did you mean malignancy?"),
        (["finetune", "--task=malignancy", "--encoder=scrach"], "ENCODER=scrach is not known; choose one of scratch"),
        (
            ["finetune", "--task=malignancy", "--profile=huge"],
            "PROFILE=huge is not known; choose one of demo, study, small",
        ),
        (["finetune", "--task=malignancy", "--fraction=0"], "FRACTION=0: expected a share above 0 and at most 1."),
        (["finetune", "--task=malignancy", "--data=nowhere"], "nowhere: no such folder"),
        (["finetune", "--task=malignancy", "--sede=1"], "--sede is no option of finetune. Did you mean --seed?"),
        (["finetun"], "The command 'finetun' is not known. Did you mean finetune?"),
        (["fit", "--config=nowhere.yaml"], "Configuration nowhere.yaml does not exist"),
    ],
)
def test_a_wrong_name_lists_the_choices(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["finetune", "--task=malignancy", "--encoder=stage1_prompts", "--fraction=0"],
        ["curve", "--task=malignancy", "--encoders=stage1_prompts,size", "--fractions=0,0.2"],
        ["curve", "--task=malignancy", "--fractions=0,0.2"],
    ],
)
def test_no_label_is_asked_for_where_an_encoder_starts_from_prompts(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--data=nowhere"]) == 2
    assert "nowhere: no such folder" in capsys.readouterr().err


def _fit_arguments(root: Path, config: Path, run_dir: Path) -> list[str]:
    from experiments.registry import compose

    files = compose("finetune", profile="demo", encoder="scratch", task="malignancy")
    return [
        *(f"--config={path}" for path in files),
        f"--config={config}",
        f"--data.init_args.root={root}",
        f"--run_dir={run_dir}",
    ]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"optimizer": {"lrr": 1}}, "lrr"),
        ({"trainer": {"max_epoch": 1}}, "max_epoch"),
        ({"trainer": {"callbacks": [{"class_path": "os.system"}]}}, "trainer.callbacks names 'os.system'"),
        ({"data": {"class_path": "subprocess.Popen"}}, "data names 'subprocess.Popen'"),
        ({"contract": {"grid": [0, 1, 1]}}, "grid"),
    ],
)
def test_a_bad_configuration_is_one_sentence(
    content: dict[str, object], sentence: str, tiny_root: Path, tmp_path: Path, tiny_config: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    bad = tmp_path / "bad.yaml"
    bad.write_text(yaml.safe_dump(content))
    assert main(["fit", *_fit_arguments(tiny_root, tiny_config, tmp_path / "run"), f"--config={bad}"]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_a_test_without_checkpoint_is_refused(
    tiny_root: Path, tmp_path: Path, tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["test", *_fit_arguments(tiny_root, tiny_config, tmp_path / "run")]) == 2
    assert "would score random weights" in capsys.readouterr().err


def test_yaml_that_wants_to_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad, proof = tmp_path / "bad.yaml", tmp_path / "ran"
    bad.write_text(f"seed_everything: !!python/object/apply:os.mkdir ['{proof}']\n")
    assert main(["fit", f"--config={bad}"]) == 2
    assert "is not plain YAML" in capsys.readouterr().err
    assert not proof.exists()


@pytest.mark.slow
def test_fit_test_and_print_config_replay(
    tiny_root: Path, tmp_path: Path, tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = _fit_arguments(tiny_root, tiny_config, tmp_path / "run")
    with pytest.raises(SystemExit) as stop:
        main(["fit", *arguments, "--print_config"])
    assert stop.value.code == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert main(["fit", f"--config={printed}", "--trainer.max_epochs=1"]) == 0
    best = tmp_path / "run/checkpoints/best.ckpt"
    assert best.is_file()
    assert main(["test", f"--config={printed}", f"--ckpt_path={best}"]) == 0
    assert len(pd.read_parquet(tmp_path / "run/predictions.parquet")) == 30


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit_is_refused(
    tiny_root: Path, tmp_path: Path, tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = _fit_arguments(tiny_root, tiny_config, tmp_path / "run")
    assert main(["fit", *arguments, "--trainer.max_epochs=1"]) == 0
    best = tmp_path / "run/checkpoints/best.ckpt"
    content = torch.load(best, weights_only=True)

    def refused(name: str, **changes: object) -> str:
        path = tmp_path / name
        torch.save({**content, "renal_suite": {**content["renal_suite"], **changes}}, path)
        capsys.readouterr()
        assert main(["test", *arguments, f"--ckpt_path={path}"]) == 2
        return capsys.readouterr().err

    assert "holds lightning_modules.other.Other" in refused("other.ckpt", module="lightning_modules.other.Other")
    former = tmp_path / "former.ckpt"  # of the same class, whose file stood elsewhere when it was written
    stamp = {**content["renal_suite"], "module": "lightning_modules.classification.Classification"}
    torch.save({**content, "renal_suite": stamp}, former)
    assert main(["test", *arguments, f"--ckpt_path={former}"]) == 0
    window = {**content["renal_suite"]["contract"], "window_hu": [-100.0, 400.0]}
    assert "window_hu: [-100.0, 400.0] in the checkpoint" in refused("window.ckpt", contract=window)
    truncated = tmp_path / "truncated.ckpt"
    truncated.write_bytes(best.read_bytes()[:2000])
    for path, sentence in (
        (truncated, "could not be read safely"),
        (tmp_path / "absent.ckpt", "absent.ckpt does not exist"),
    ):
        assert main(["test", *arguments, f"--ckpt_path={path}"]) == 2
        assert sentence in capsys.readouterr().err


def test_a_pickle_that_wants_to_run_code_is_not_run(
    tiny_root: Path, tmp_path: Path, tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import os

    proof = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(proof),)

    bad = tmp_path / "bomb.ckpt"
    torch.save({"state_dict": Bomb()}, bad)
    arguments = _fit_arguments(tiny_root, tiny_config, tmp_path / "run")
    assert main(["test", *arguments, f"--ckpt_path={bad}"]) == 2
    assert "nothing of it was run" in capsys.readouterr().err
    assert not proof.exists()


def _edit_patients(root: Path, **values: object) -> None:
    frame, _ = read_parquet(root / "patients.parquet")
    for column, value in values.items():
        frame[column] = frame[column].astype(object)
        frame.loc[0, column] = value
    write_parquet(root / "patients.parquet", frame)


def _leak(root: Path) -> None:
    frame, header = read_parquet(root / "splits.parquet")
    write_parquet(
        root / "splits.parquet",
        pd.concat([frame, frame[frame["split"] == "train"].iloc[[0]].assign(split="test")]),
        {SPLIT_HASH: header[SPLIT_HASH]},
    )


def _empty_center(root: Path) -> None:
    frame, _ = read_parquet(root / "centers.parquet")
    extra = pd.DataFrame({"center": ["E9"], "role": ["external"]})
    write_parquet(root / "centers.parquet", pd.concat([frame, extra]))


def _lose_shard(root: Path) -> None:
    sorted((VolumeSet.find(root).folder / "shards").glob("*.bin"))[0].unlink()


def _lose_volumes(root: Path) -> None:
    folder = VolumeSet.find(root).folder
    index, _ = read_parquet(folder / "index.parquet")
    write_parquet(folder / "index.parquet", index[index["patient_id"] != "I1-001"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_leak, "is in several splits"),
        (lambda root: _edit_patients(root, malignancy=7), "column malignancy: value 7"),
        (lambda root: _edit_patients(root, os_months=-3.0), "column os_months: value -3.0"),
        (_empty_center, "centre E9 has no patients"),
        (_lose_shard, "shards"),
        (_lose_volumes, "no volume of their index kidney"),
        (lambda root: shutil.rmtree(root / "volumes"), "volume set"),
    ],
)
def test_bad_cohorts_stop_training_with_2_and_data_check_with_1(
    damage, sentence: str, tiny_copy: Path, tmp_path: Path, tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    damage(tiny_copy)
    assert _finetune(tiny_copy, tmp_path / "runs", tiny_config) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert str(tmp_path) not in error
    assert main(["data-check", f"--data={tiny_copy}"]) == 1
    assert "FAIL" in capsys.readouterr().out
    findings = json.loads((tiny_copy / "data-check.json").read_text())
    assert any(finding["level"] == "FAIL" for finding in findings)


def test_data_check_passes_a_good_cohort_and_finds_a_flipped_bit(
    tiny_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data-check", f"--data={tiny_copy}"]) == 0
    shard = sorted((VolumeSet.find(tiny_copy).folder / "shards").glob("*.bin"))[0]
    content = bytearray(shard.read_bytes())
    content[-10] ^= 4
    shard.write_bytes(bytes(content))
    assert main(["data-check", f"--data={tiny_copy}"]) == 1
    assert shard.name in capsys.readouterr().out
    assert main(["data-check", f"--data={tiny_copy}", "--quick=true"]) == 0


@pytest.mark.slow
def test_doctor_answers_in_text_and_json(tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "doctor.json"
    assert main(["doctor", f"--data={tiny_root}", f"--runs={tmp_path / 'runs'}", f"--out={out}"]) == 0
    assert "nf4 quantises and restores" in capsys.readouterr().out
    assert {finding["level"] for finding in json.loads(out.read_text())} <= {"PASS", "WARN"}
