"""Data-efficiency curves through the real command: resumed, skipped, averaged; baselines against scikit-learn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow.tracking import MlflowClient
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.labels import Label
from datamodules.errors import DataError
from experiments.cli import main
from experiments.encoders.clinical_features import check_columns
from experiments.finetuning import finetune as finetune_module
from experiments.finetuning.point import Point
from experiments.front_door.curve_links import curve_links
from experiments.runs.baseline import clinical_values
from experiments.runs.tracking import tracking_uri
from experiments.scores.outcomes import AUROC
from experiments.statistics.estimate import Estimate
from experiments.statistics.support import share_support
from experiments.studies.compare import Pooled
from experiments.studies.curve.curve_table import Cell, Curve, Skipped, curve_table, reached_table
from lightning_modules.losses.balance import class_weights
from tests.experiments.finetuning.test_finetune import TINY


@pytest.fixture
def flags(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return json.dumps([f"--config={path}"])


def _curve(root: Path, runs: Path, flags: str, *more: str) -> int:
    return main(["curve", f"--data={root}", f"--runs={runs}", "--mode=probe", f"--extra={flags}", *more])


@pytest.mark.slow
def test_a_killed_curve_goes_on_and_its_means_are_those_by_hand(
    sized_root: Path, tmp_path: Path, flags: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ("--task=malignancy", "--encoders=[scratch,size,stage1]", "--fractions=[0.01,1.0]", "--seeds=[42,2024]")
    finish = finetune_module._finish
    done: list[str] = []

    def killed(point: Point, *arguments: object) -> pd.DataFrame:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(point.name)
        return finish(point, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(finetune_module, "_finish", killed)
        assert _curve(sized_root, tmp_path, flags, *wanted) == 130
    folder = tmp_path / "renal/tiny/malignancy"
    marks = {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/DONE")}
    assert set(marks) == set(done) == {"scratch-probe-f1-s42", "scratch-probe-f1-s2024"}
    assert not (folder / "curve-probe.csv").exists()

    assert _curve(sized_root, tmp_path, flags, *wanted) == 0
    shown = capsys.readouterr().out
    assert "4 points, of which 2 are finished already" in shown
    again = {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/DONE")}
    assert {name: again[name] for name in marks} == marks
    assert len(again) == 4

    table = pd.read_csv(folder / "curve-probe.csv")
    _check_skipped(table, shown)
    rows = table.dropna(subset=["value"])
    assert set(rows["group"]) == {"internal test", "external E1", "external E2", "pooled external"}
    for name in ("scratch", "size"):
        values = []
        for seed in (42, 2024):
            found = pd.read_parquet(folder / f"{name}-probe-f1-s{seed}/predictions.parquet")
            found = found[(found["part"] == "test") & (found["role"] == "external")]
            values.append(roc_auc_score(found["target"], found["score_malignant"]))
        (row,) = rows[(rows["encoder"] == name) & (rows["group"] == "pooled external")].to_dict("records")
        assert row["value"] == pytest.approx(np.mean(values))
        assert row["spread"] == pytest.approx(np.std(values, ddof=1))
        assert (row["seeds"], row["n"], row["positives"]) == (2, len(found), found["target"].sum())
        assert row["low"] <= row["value"] <= row["high"]
    assert (folder / "curve-probe.png").is_file()
    assert pd.read_csv(folder / "curve-probe-reached.csv").empty  # nothing pretrained is among them
    _check_tracked(tmp_path, rows)
    # Once more: nothing is run, and MLflow keeps one value a step.
    assert _curve(sized_root, tmp_path, flags, *wanted) == 0
    assert "of which 4 are finished already" in capsys.readouterr().out
    _check_tracked(tmp_path, rows)


def _check_skipped(table: pd.DataFrame, shown: str) -> None:
    notes = table[table["value"].isna()]["note"].tolist()
    assert len(notes) == 2
    assert "stage1" in notes[0]
    assert "make pretrain STAGES=image" in notes[0]
    assert "The smallest fraction that works is" in notes[1]
    assert all(f"Skipped: {note}" in shown for note in notes)


def _check_tracked(runs: Path, rows: pd.DataFrame) -> None:
    client = MlflowClient(tracking_uri(runs))
    experiment = client.get_experiment_by_name("renal/tiny/malignancy")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in found if str(run.info.run_name).startswith("curve-")]
    children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == 4
    assert {child.data.params["model"] for child in children} == {"linear"}
    assert not any(name.startswith(("augmentation", "batch")) for child in children for name in child.data.params)
    # One run an encoder, whose metric has one name, so that a chart holds all of them; none is folded beneath another.
    lines = {run.info.run_name: run for run in found if run.data.tags.get("kind") == "curve line"}
    assert set(lines) == {"scratch-probe", "size-probe"}
    assert all(run.data.tags["curve"] == parent.info.run_id for run in lines.values())
    assert not any("mlflow.parentRunId" in run.data.tags for run in lines.values())
    for name in ("scratch", "size"):
        (entry,) = client.get_metric_history(lines[f"{name}-probe"].info.run_id, "auroc/pooled_external")
        expected = rows[(rows["encoder"] == name) & (rows["group"] == "pooled external")]["value"].iloc[0]
        assert (entry.step, entry.value) == (100, pytest.approx(expected))
        assert "| 100 % |" in lines[f"{name}-probe"].data.tags["mlflow.note.content"]
    note = parent.data.tags["mlflow.note.content"]
    assert note.startswith("**Malignancy, linear probe: AUC by share of the labels.**")
    assert "Phantom results" in note
    assert {"curve-probe.png", "curve-probe.csv"} <= {f.path for f in client.list_artifacts(parent.info.run_id)}
    (link,) = curve_links(tracking_uri(runs), 5000).values()
    assert f"#/experiments/{experiment.experiment_id}/runs?searchFilter=tags.kind%20%3D%20%27curve%20line%27" in link


@pytest.mark.slow
def test_points_that_were_run_one_by_one_make_a_curve(
    sized_root: Path, tmp_path: Path, flags: str, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["finetune", "--task=malignancy", "--encoder=size", "--mode=probe", f"--data={sized_root}"]
    common += [f"--runs={tmp_path}", f"--extra={flags}"]
    with_nothing = ("--task=malignancy", "--finished=true")
    assert _curve(sized_root, tmp_path, flags, *with_nothing) == 2
    assert "has no finished point of MODE=probe; run `make finetune TASK=malignancy" in capsys.readouterr().err
    for fraction in (0.8, 1.0):
        assert main([*common, f"--fraction={fraction}"]) == 0
    assert "`make curve TASK=malignancy MODE=probe FINISHED=true`" in capsys.readouterr().out
    assert main([*common, "--fraction=1.0", "--seed=7"]) == 0
    for _ in range(2):  # once more MLflow holds the same
        assert _curve(sized_root, tmp_path, flags, *with_nothing) == 0
    folder = tmp_path / "renal/tiny/malignancy"
    assert len(list(folder.glob("*/DONE"))) == 3
    table = pd.read_csv(folder / "curve-probe.csv").query("group == 'pooled external'").set_index("fraction")
    assert table["seeds"].to_dict() == {0.8: 1, 1.0: 2}
    client = MlflowClient(tracking_uri(tmp_path))
    ids = [found.experiment_id for found in client.search_experiments()]
    (line,) = client.search_runs(ids, "tags.kind = 'curve line'")
    history = client.get_metric_history(line.info.run_id, "auroc/pooled_external")
    assert {entry.step: entry.value for entry in history} == {80: table["value"][0.8], 100: table["value"][1.0]}
    assert len(history) == 2
    # Another seed changes the line: the old one goes, so that no step has two values.
    assert main([*common, "--fraction=0.8", "--seed=7"]) == 0
    assert _curve(sized_root, tmp_path, flags, *with_nothing) == 0
    (again,) = client.search_runs(ids, "tags.kind = 'curve line'")
    assert len(client.get_metric_history(again.info.run_id, "auroc/pooled_external")) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("encoder", "mode"), [("size", "finetune"), ("clinical", "probe")])
def test_a_table_baseline_is_a_direct_fit_with_medians_of_training(
    sized_root: Path, tmp_path: Path, flags: str, encoder: str, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """No image is read, in either mode."""
    for shard in sized_root.glob("volumes/*/shards/*.bin"):
        shard.write_bytes(b"")
    arguments = ["finetune", "--task=malignancy", f"--encoder={encoder}", f"--mode={mode}"]
    assert main([*arguments, f"--data={sized_root}", f"--runs={tmp_path}", f"--extra={flags}"]) == 0
    folder = tmp_path / f"renal/tiny/malignancy/{encoder}-{mode}-f1-s42"
    predictions = pd.read_parquet(folder / "predictions.parquet").set_index("patient_id")

    columns = ["tumor_size_mm"] if encoder == "size" else ["age_years", "tumor_size_mm"]
    patients = Cohort.load(sized_root).patients().set_index("patient_id")
    patients = patients[patients["role"] != "pretrain"]
    train = patients["split"] == "train"
    values = patients[columns].astype(float)
    assert values[train].isna().to_numpy().any()
    values = values.fillna(values[train].median())
    scaler = StandardScaler().fit(values[train])
    target = patients["malignancy"].astype(int)
    weight = dict(enumerate(class_weights(np.bincount(target[train]).tolist(), "root").tolist()))
    penalty = float(capsys.readouterr().out.split("penalty ")[1].split(",")[0])
    model = LogisticRegression(C=1 / penalty, class_weight=weight, max_iter=5000)
    model.fit(scaler.transform(values[train]), target[train])
    expected = model.predict_proba(scaler.transform(values.loc[predictions.index]))[:, 1]
    np.testing.assert_allclose(predictions["score_malignant"], expected, atol=1e-5)


@pytest.mark.slow
def test_size_alone_runs_survival_and_is_refused_where_it_is_the_label(
    sized_root: Path, tmp_path: Path, flags: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        _curve(sized_root, tmp_path, flags, "--task=rfs", "--encoders=[size]", "--fractions=[1]", "--seeds=[42]") == 0
    )
    table = pd.read_csv(tmp_path / "renal/tiny/rfs/curve-probe.csv")
    assert set(table[table["group"] == "pooled external"]["endpoint"]) == {"rfs", "dss", "os"}
    assert set(table[table["group"] == "external E1"]["endpoint"]) == {"rfs"}
    assert _curve(sized_root, tmp_path, flags, "--task=renal_r", "--encoders=[size,clinical]") == 2
    assert "would read the label" in capsys.readouterr().err
    with pytest.raises(DataError, match="would read the label"):
        check_columns(Label("renal_r", "renal_r", [1, 2], ["a", "b"], "kidneys"), ("age_years", "tumor_size_mm"))


@pytest.mark.slow
def test_a_baseline_without_its_column_is_refused(
    tiny_root: Path, tmp_path: Path, flags: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["finetune", "--task=malignancy", "--encoder=size", f"--data={tiny_root}", f"--runs={tmp_path}"]
    assert main([*arguments, f"--extra={flags}"]) == 2
    assert "No training patient of task malignancy has tumor_size_mm" in capsys.readouterr().err
    assert main(["probe", "--encoder=size", f"--data={tiny_root}", f"--runs={tmp_path}"]) == 2
    assert "ENCODER=size is not known" in capsys.readouterr().err  # it has no features of an image


def test_clinical_values_are_numbers_in_the_order_of_the_patients(sized_root: Path) -> None:
    cohort = Cohort.load(sized_root)
    patients = cohort.patients().iloc[::-1]
    found = clinical_values(cohort, patients, ("sex", "tumor_size_mm", "lesion_count"))
    assert found["sex"].tolist() == [0.0] * len(patients)
    np.testing.assert_array_equal(found["tumor_size_mm"], patients["tumor_size_mm"].astype(float))
    assert found["lesion_count"].isna().all()  # not in this cohort


def test_the_smallest_fraction_is_that_of_the_best_baseline() -> None:
    """Aligned passes size at 40 % in every replicate, and scratch, the weaker baseline, earlier."""
    means = {"scratch": (0.5, 0.5, 0.6), "size": (0.5, 0.6, 0.65), "aligned": (0.62, 0.7, 0.8)}
    cells = [
        Cell(name, share, "pooled external", "pooled external", "", True, _pooled(value))
        for name, values in means.items()
        for share, value in zip((0.1, 0.4, 1.0), values, strict=True)
    ]
    labels = {0.1: 10.0, 0.4: 40.0, 1.0: 100.0}
    plan = Curve(Point("malignancy"), list(means), labels, [42], [Skipped("stage1", None, "no weights; pretrain")])
    (row,) = reached_table(plan, cells).to_dict("records")
    assert (row["encoder"], row["baseline"]) == ("aligned", "size")
    assert (row["fraction"], row["low"], row["high"], row["reached"]) == (0.4, 0.4, 0.4, 1.0)
    assert "aligned reaches size at 100 % of the labels with 40 % of them" in row["sentence"]
    table = curve_table(plan, cells, [])
    assert len(table) == 10
    assert table["note"].tolist()[-1] == "stage1: no weights; pretrain"
    without = Curve(Point("malignancy"), list(means), {0.1: 10.0, 0.4: 40.0}, [42], [])
    assert reached_table(without, [cell for cell in cells if cell.fraction < 1]).empty


def _pooled(value: float) -> Pooled:
    estimate = Estimate(value, value - 0.1, value + 0.1, 100, 60)
    values = value + np.random.default_rng(0).uniform(0, 1e-6, 50)
    return Pooled(AUROC, estimate, values, (value,), share_support(100))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--encoders=[alined]", "Did you mean aligned?"),
        ("--fractions=[0.2,1.5]", "FRACTIONS=1.5 was asked for"),
        ("--fractions=[]", "FRACTIONS=nothing was asked for"),
        ("--seeds=[42,42]", "SEEDS=42, 42 was asked for"),
        ("--encoders=[aligned]", "None of the encoders asked for can be run"),
        ("--fractions=[0.01]", "The smallest fraction that works is"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(
    sized_root: Path, tmp_path: Path, flags: str, argument: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _curve(sized_root, tmp_path / "runs", flags, argument) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
