"""A run belongs to its data: relabelled, folded anew, grown and merged cohorts through the real commands."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from mlflow.tracking import MlflowClient

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.identity import DataIdentity
from datamodules.cohort.trained_on import TRAINING_DATA, TrainedOn
from datamodules.errors import DataError
from datamodules.files import read_json, read_parquet, write_parquet
from datamodules.importers.builder import build_cohort
from experiments.cli import main
from experiments.finetuning.linear_probe import run_probe
from experiments.finetuning.point import Point
from experiments.registry import STAGES
from experiments.runs.folders import ENCODER_FOLDER, folds_of, stage_folder
from experiments.runs.run_data import data_of, make_command, read_trained_on
from experiments.runs.tracking import tracking_uri
from experiments.studies.compare import finished_points
from lightning_modules.export.image import save_encoder
from lightning_modules.networks.image.encoders import EncoderConfig, build_encoder
from tests.datamodules.cohort.test_identity import renamed
from tests.tiny import CONTRACT, TINY, TinySource


@pytest.fixture
def flags(tmp_path: Path) -> tuple[str, ...]:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return (f"--config={path}",)


def _finetune(point: Point) -> int:
    flags = [f"--task={point.task}", f"--encoder={point.encoder}", f"--mode={point.mode}", f"--data={point.data}"]
    return main(["finetune", *flags, f"--runs={point.runs}", f"--extra={json.dumps(list(point.extra))}"])


def _written(cohort: Cohort, **tables: object) -> Cohort:
    """The cohort with some tables replaced, on the disk too."""
    changed = replace(cohort, tables={**cohort.tables, **tables})  # type: ignore[dict-item]
    changed.write()
    return changed


def _inverted(root: Path) -> None:
    """Every malignant tumour becomes benign, and the other way round."""
    cohort = Cohort.load(root)
    _written(cohort, patients=cohort["patients"].assign(malignancy=1 - cohort["patients"]["malignancy"]))


def _identity(point: Point, fold: int | None = None) -> DataIdentity:
    launch = point.launch(Cohort.load(point.data), fold)
    return data_of(launch.configuration.parsed)


def _export(point: Point, cohort: Cohort, fold: int | None, seen: TrainedOn) -> Path:
    """An encoder of random weights that says whom it was trained on."""
    torch.manual_seed(0)
    start = replace(point, encoder=str(STAGES["image"].start))
    config = EncoderConfig.of(start.launch(cohort, fold).configuration.resolved()["encoder"])
    folder = stage_folder(point.runs, cohort, "image", 42, fold) / ENCODER_FOLDER
    save_encoder(folder, build_encoder(config), config, CONTRACT.to_dict(), "card", seen.write(folder))
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.slow
def test_a_finished_or_interrupted_run_is_refused_on_other_labels(
    tiny_copy: Path, tmp_path: Path, flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    point = Point("malignancy", data=tiny_copy, runs=tmp_path / "runs", extra=flags)
    assert _finetune(point) == 0
    cohort = Cohort.load(tiny_copy)
    folder = point.folder(cohort)
    sha256 = DataIdentity.read(folder / "data.parquet").sha256
    assert read_json(folder / "DONE")["data_sha256"] == [sha256]
    assert yaml.safe_load((folder / "config.yaml").read_text())["data_sha256"] == sha256
    client = MlflowClient(tracking_uri(point.runs))
    tags = client.get_run(read_json(folder / "DONE")["run_id"]).data.tags
    assert tags["data_sha256"] == sha256
    checkpoint = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)
    assert len(checkpoint["RoiDataModule"]["data_sha256"]) == 64
    before = _files(folder)
    assert len(finished_points(point.runs, cohort, "malignancy")) == 1
    _inverted(tiny_copy)
    tested = _identity(point).of(("train", "val", "test")).parts
    capsys.readouterr()
    assert _finetune(point) == 2
    shown = capsys.readouterr().err
    assert f"labels of {len(tested)} patients differ" in shown
    assert "with TAG=" in shown
    assert _files(folder) == before
    with pytest.raises(DataError, match=r"tested patients of .* have another label now"):
        finished_points(point.runs, Cohort.load(tiny_copy), "malignancy")
    (folder / "DONE").unlink()  # as if it had been interrupted after its last epoch
    before.pop("DONE")
    assert _finetune(point) == 2
    assert f"labels of {len(tested)} patients differ" in capsys.readouterr().err
    assert _files(folder) == before
    _inverted(tiny_copy)  # on its own data it goes on
    assert _finetune(point) == 0


@pytest.mark.slow
def test_stored_fold_encoders_are_refused_when_the_folds_are_drawn_anew(
    tiny_folds_root: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    root = Path(shutil.copytree(tiny_folds_root, tmp_path / "folds"))
    cohort = Cohort.load(root)
    scratch = Point("malignancy", data=root, runs=tmp_path / "runs", extra=flags, mode="probe")
    point = replace(scratch, encoder="stage1")
    for fold in folds_of(cohort):
        _export(point, cohort, fold, TrainedOn.of(_identity(scratch, fold), "make pretrain STAGES=image"))
    run_probe(point.launch(cohort, 0))
    splits = cohort["splits"]
    cohort = _written(cohort, splits=splits.assign(fold=(splits["fold"] + 1) % len(folds_of(cohort))))
    finished = point.launch(cohort, 0)
    with pytest.raises(DataError, match=r"fold0 was made on other data .*10 patients moved from train to test"):
        run_probe(finished)
    tested = int((cohort["splits"]["fold"] == 0).sum())
    message = (
        r"image-s42/fold0\) was trained on \d+ of the \d+ validation and test patients .*`make pretrain STAGES=image`"
    )
    other = tmp_path / "runs/other"
    elsewhere = finished.configuration.over(values={"run_dir": other})
    with pytest.raises(DataError, match=message) as caught:
        run_probe(replace(finished, folder=other, configuration=elsewhere))
    count = int(re.search(r"trained on (\d+)", str(caught.value)).group(1))  # type: ignore[union-attr]
    assert count >= tested
    assert not (tmp_path / "runs/other/config.yaml").exists()


@pytest.mark.slow
def test_a_grown_cohort_is_another_one_and_an_old_encoder_serves_it_where_nobody_it_saw_is_tested(
    tiny_copy: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    point = Point("malignancy", data=tiny_copy, runs=tmp_path / "runs", extra=flags, mode="probe")
    cohort = Cohort.load(tiny_copy)
    pretraining = point.launch(cohort, None).configuration.over(flags=["--data.init_args.role=pretrain"]).build()
    seen = TrainedOn.of(data_of(pretraining), "make pretrain STAGES=image")
    encoder = replace(point, encoder="stage1")
    _export(encoder, cohort, None, seen)
    run_probe(point.launch(cohort, None))
    grown = tmp_path / "grown"
    build_cohort(TinySource(per_center=14), grown, CONTRACT, workers=1)
    kept = cohort["splits"].set_index("patient_id")["split"]
    new = Cohort.load(grown)
    splits = new["splits"]
    new = _written(new, splits=splits.assign(split=splits["patient_id"].map(kept).fillna(splits["split"])))
    added = len(_identity(replace(point, data=grown)).parts) - len(_identity(point).parts)
    with pytest.raises(DataError, match=rf"was made on other data \({added} patients are new.*TAG="):
        run_probe(replace(point, data=grown).launch(new, None))
    run_probe(replace(encoder, data=grown).launch(new, None))
    # Nobody whom it saw may be tested: the pretraining centre becomes an external one.
    centers, splits = new["centers"], new["splits"]
    new = _written(
        new,
        centers=centers.assign(role=centers["role"].replace({"pretrain": "external"})),
        splits=splits.assign(split=splits["split"].mask(splits["patient_id"].str.startswith("P1"), "test")),
    )
    with pytest.raises(DataError, match=r"was trained on \d+ of the .*P1-\d+"):
        run_probe(replace(encoder, data=grown, tag="again").launch(new, None))


@pytest.mark.slow
def test_the_same_scans_under_other_pseudonyms_are_found_in_a_merged_cohort(
    tiny_copy: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    point = Point("malignancy", encoder="stage1", data=tiny_copy, runs=tmp_path / "runs", extra=flags, mode="probe")
    cohort = Cohort.load(tiny_copy)
    own = _identity(replace(point, encoder="scratch"))
    _export(point, cohort, None, TrainedOn.of(own))
    run_probe(point.launch(cohort, None))
    other = renamed(Path(shutil.copytree(tiny_copy, tmp_path / "other")), "Z")
    swapped = Cohort.load(other)
    splits, people = swapped["splits"], swapped.patients()
    trained = people[(people["role"] == "internal") & (people["split"] == "train") & (people["malignancy"] == 1)]
    moved = splits["patient_id"].isin(trained["patient_id"].iloc[:2])
    swapped = _written(swapped, splits=splits.assign(split=splits["split"].mask(moved, "test")))
    first, second = trained["patient_id"].iloc[:2]
    message = (
        rf"was trained on 2 of the .*\({first}, {second}, 2 of them under other pseudonyms, found by their volumes"
    )
    with pytest.raises(DataError, match=message):
        run_probe(replace(point, data=other, tag="merged").launch(swapped, None))
    # Within a cohort: a test patient with the scans of a training patient.
    (path,) = tiny_copy.glob("volumes/*/index.parquet")
    index = read_parquet(path)[0]
    parts = own.parts
    names = {own.names[int(key)]: part for key, part in parts.items()}
    train, test = (next(name for name, part in sorted(names.items()) if part == wanted) for wanted in ("train", "test"))
    own_left, other_left = ((index["side"] == "left") & (index["patient_id"] == name) for name in (test, train))
    index.loc[own_left, "crc32"] = index.loc[other_left, "crc32"].to_numpy()
    write_parquet(path, index)
    with pytest.raises(DataError, match=rf"1 validation and test patients have the scans of training .*{test}"):
        run_probe(replace(point, encoder="scratch", tag="twice").launch(cohort, None))


@pytest.mark.slow
def test_what_was_trained_before_says_what_to_run_and_stays(
    tiny_copy: Path, tmp_path: Path, flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    point = Point("malignancy", data=tiny_copy, runs=tmp_path / "runs", extra=flags, mode="probe")
    assert _finetune(point) == 0
    cohort = Cohort.load(tiny_copy)
    folder = point.folder(cohort)
    (folder / "data.parquet").unlink()
    before = _files(folder)
    assert _finetune(point) == 2
    shown = capsys.readouterr().err
    assert "was made before runs recorded their data" in shown
    assert "run `make finetune TASK=malignancy MODE=probe" in shown
    assert _files(folder) == before
    encoder = replace(point, encoder="stage1")
    exported = _export(encoder, cohort, None, TrainedOn.nobody())
    (exported.parent / "run.json").write_text(
        json.dumps({"command": "pretrain", "arguments": {"stages": ["image"], "data": str(tiny_copy), "seed": 42}})
    )
    (exported / TRAINING_DATA).unlink()
    assert _finetune(encoder) == 2
    shown = capsys.readouterr().err
    assert "trained before exports recorded their training patients" in shown
    assert "run `make pretrain STAGES=image DATA=.../tiny` again" in shown
    assert str(tmp_path) not in shown
    # A record of other weights is refused too.
    TrainedOn.nobody(["something"]).write(exported)
    with pytest.raises(DataError, match="do not belong together"):
        read_trained_on(exported)


def test_published_weights_are_unknown_and_a_command_reads_as_it_was_typed(tmp_path: Path) -> None:
    path = tmp_path / "ct_fm.safetensors"
    path.write_bytes(b"")
    assert read_trained_on(path).words == "0 known patients, unknown: ct_fm.safetensors"
    stored = {"command": "finetune", "arguments": {"task": "os", "fraction": 0.2, "seed": 42, "data": "data/demo"}}
    assert make_command(stored) == "make finetune TASK=os FRACTION=0.2"
