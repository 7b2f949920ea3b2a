"""One scan in, its description out: equal to the cohort's path, and on a real CT where one is at hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from jsonargparse import auto_cli

from datamodules.augmentation import AugmentationConfig, VolumeAugmentation
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.trained_on import TrainedOn
from datamodules.errors import DataError
from datamodules.importers.nifti.manifest import ManifestSource
from datamodules.importers.plan import CohortPlan
from datamodules.reports.sides import side_reports
from datamodules.volumes.contract import PreprocessingContract
from experiments.aligned.one_scan.scan import embed
from experiments.aligned.zero_shot.prompt_sets import available, load_prompts
from experiments.encoders.scan_encoder import network_crop
from lightning_modules.core.errors import ModelError
from lightning_modules.core.optimization import OptimizerConfig
from lightning_modules.export.attribute_heads import AttributeHeads, load_heads, save_heads
from lightning_modules.export.image import load_exported, save_encoder
from lightning_modules.pretrain.attributes import AttributePretraining
from tests.datamodules.importers.dicom_phantom import NAME, RAW_ID, SCANNED, Scan, segmentation
from tests.datamodules.importers.nifti_phantom import labels, save, scan_hu
from tests.experiments.aligned_tiny import CROP, ENCODER, aligned_model, export, fill_cache, with_reports
from tests.tiny import CONTRACT

PHASES = ("non_contrast", "arterial", "venous", "delayed")
CLASSES = {"margin": {"smooth": 1, "irregular": 1}, "lesion_present": {"yes": 1, "no": 1}}


@pytest.fixture(scope="module")
def folder(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort with reports, an aligned model, a stage-1 export with heads, cached texts, and a scan with its mask."""
    made = tmp_path_factory.mktemp("embed")
    with_reports(Path(shutil.copytree(tiny_root, made / "tiny")))
    export(made / "model")
    texts = side_reports(Cohort.load(made / "tiny"))["text"].tolist()
    prompts = [text for task in available() for text in load_prompts(task).prompts()[0]]
    fill_cache(made / "runs", "tiny", texts + prompts)
    torch.manual_seed(1)
    stage1 = AttributePretraining(ENCODER, CLASSES, CONTRACT.to_dict(), OptimizerConfig()).eval()
    torch.nn.init.normal_(stage1.phase.weight)
    exported = made / "runs/renal/tiny/pretrain/image-s42/encoder"
    seen = TrainedOn.nobody().write(exported)
    save_encoder(exported, stage1.encoder, ENCODER, CONTRACT.to_dict(), "card", seen)
    save_heads(exported, AttributeHeads.of_state(stage1.state_dict(), CLASSES, PHASES))
    save(made / "scan.nii.gz", scan_hu(), axes="LPS")
    save(made / "mask.nii.gz", labels())
    return made


def arguments(folder: Path, **more: object) -> dict[str, object]:
    common = {"source": folder / "scan.nii.gz", "mask": folder / "mask.nii.gz", "phase": "venous"}
    common |= {"data": folder / "tiny", "model": str(folder / "model"), "runs": folder / "runs", "crop": list(CROP)}
    return common | {"outside_training": True} | more


@pytest.fixture(scope="module")
def found(folder: Path) -> dict:
    """The JSON of the scan."""
    assert embed(**arguments(folder, out=folder / "out")) == 0
    return json.loads((folder / "out/embedding.json").read_text())


@pytest.fixture(scope="module")
def inputs(folder: Path) -> torch.Tensor:
    """The same kidneys, left first, as a cohort's importer and DataModule give them to a network."""
    row = {"patient_id": "p", "study_id": "e", "series_id": "s", "center": "A", "phase": "venous"}
    row |= {"image": "scan.nii.gz", "mask": "mask.nii.gz"}
    pd.DataFrame([row]).to_csv(folder / "manifest.csv", index=False)
    record = ManifestSource(folder / "manifest.csv", CohortPlan("one")).load("p", CONTRACT)
    images = np.stack([volume.image[None] for volume in record.volumes])
    return VolumeAugmentation(CONTRACT, AugmentationConfig(crop=CROP)).evaluate(torch.from_numpy(images))


def test_embeddings_are_those_of_the_cohorts_path(found: dict, inputs: torch.Tensor) -> None:
    assert [kidney["side"] for kidney in found["kidneys"]] == ["left", "right"]
    with torch.no_grad():
        expected = aligned_model().embed_image(inputs).numpy()
    np.testing.assert_allclose([kidney["embedding"] for kidney in found["kidneys"]], expected, atol=1e-5)
    assert found["kidneys"][0]["measures"]["tumor_volume_ml"] > 0
    assert found["model"]["contract"] == CONTRACT.to_dict()


def test_attributes_are_those_of_the_stage_1_heads(found: dict, inputs: torch.Tensor, folder: Path) -> None:
    stage = folder / "runs/renal/tiny/pretrain/image-s42/encoder"
    with torch.no_grad():
        expected = load_heads(stage).scores(load_exported(stage)[0](inputs), "venous")
    for number, kidney in enumerate(found["kidneys"]):
        # The mask shows lesions, so that it decides whether there is one; the score stands beside it.
        assert kidney["lesion"]["present"] == kidney["measures"]["has_lesion"]
        assert kidney["lesion"]["score"] == pytest.approx(float(expected["lesion_present"][number, 0]), abs=1e-4)
        withheld = {entry["question"] for entry in kidney["withheld"]}
        assert set(kidney["attributes"]) == {"margin"} - withheld
        for name, entry in kidney["attributes"].items():
            np.testing.assert_allclose(list(entry["scores"].values()), expected[name][number], atol=1e-4)
            assert entry["value"] == max(entry["scores"], key=entry["scores"].get)


def test_every_task_has_scores_of_its_classes_or_is_withheld_with_a_reason(found: dict) -> None:
    for kidney in found["kidneys"]:
        withheld = {entry["question"]: entry["reason"] for entry in kidney["withheld"]}
        assert sorted({*kidney["zero_shot"], *withheld} - set(CLASSES)) == available()
        assert all("is withheld: " in text for text in withheld.values())
        assert not set(kidney["zero_shot"]) & set(withheld)
        for entry in kidney["zero_shot"].values():
            assert sum(entry["scores"].values()) == pytest.approx(1, abs=1e-3)
    lesions = [kidney for kidney in found["kidneys"] if kidney["lesion"]["present"]]
    assert any(kidney["zero_shot"] for kidney in lesions)
    assert all(kidney["zero_shot"] == {} for kidney in found["kidneys"] if not kidney["lesion"]["present"])


def test_no_class_is_shown_of_a_scan_that_nothing_is_known_to_be_like(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "renal_suite"):
        assert embed(**arguments(folder, out=tmp_path, outside_training=False, tasks=["malignancy"])) == 0
    content = json.loads((tmp_path / "embedding.json").read_text())
    assert content["headline"].startswith("OUTSIDE THE TRAINING DATA (left and right kidneys)")
    for kidney in content["kidneys"]:
        assert kidney["training_data"]["outside_training"]
        assert {"side", "phases", "measures", "embedding", "training_data"} == set(kidney)
    said = caplog.text
    assert "OUTSIDE THE TRAINING DATA" in said
    assert "--outside_training shows them" in said
    assert "malignant" not in said


def test_a_class_is_not_called_a_probability(folder: Path, found: dict) -> None:
    assert "probabilit" not in (folder / "out/embedding.json").read_text()
    assert found["headline"]


def test_nearest_reports_are_of_the_pretraining_centres_only_and_in_order(found: dict, folder: Path) -> None:
    cohort = Cohort.load(folder / "tiny")
    people = cohort.patients()
    texts = side_reports(cohort, set(people.loc[people["role"] == "pretrain", "patient_id"]))["text"]
    for kidney in found["kidneys"]:
        near = kidney["nearest_reports"]
        assert len(near) == 5
        assert [entry["cosine"] for entry in near] == sorted((entry["cosine"] for entry in near), reverse=True)
        assert all(entry["kidneys"] == (texts == entry["text"]).sum() for entry in near)


@pytest.mark.slow
def test_several_series_are_averaged_and_no_identifier_is_written(folder: Path, tmp_path: Path) -> None:
    scan = Scan()
    scan.write(tmp_path / NAME / "venous")
    Scan(series=f"{scan.series}.2", description="ABD ARTERIAL", seed=1).write(tmp_path / NAME / "arterial")
    segmentation(scan).save_as(tmp_path / NAME / "seg", enforce_file_format=True)
    more = {"source": tmp_path / NAME, "mask": None, "phase": None, "out": tmp_path / "out", "tasks": ["malignancy"]}
    assert embed(**arguments(folder, **more)) == 0
    text = (tmp_path / "out/embedding.json").read_text()
    for secret in (NAME, RAW_ID, SCANNED, scan.study, str(tmp_path), str(folder)):
        assert secret not in text
    for kidney in json.loads(text)["kidneys"]:
        assert sorted(kidney["phases"]) == ["arterial", "venous"]
        assert np.linalg.norm(kidney["embedding"]) == pytest.approx(1, abs=1e-4)
        withheld = [entry["question"] for entry in kidney["withheld"]]
        assert ("malignancy" in kidney["zero_shot"]) != ("malignancy" in withheld)


def test_without_cohort_and_heads_the_rest_is_there_and_said(folder: Path, tmp_path: Path) -> None:
    fill_cache(tmp_path / "runs", "", load_prompts("malignancy").prompts()[0])
    more = {"data": None, "runs": tmp_path / "runs", "out": tmp_path / "out", "tasks": ["malignancy"], "phase": None}
    assert embed(**arguments(folder, **more)) == 0
    content = json.loads((tmp_path / "out/embedding.json").read_text())
    assert any("No attribute heads" in note for note in content["notes"])
    assert all(kidney["nearest_reports"] == [] and kidney["phases"] == [None] for kidney in content["kidneys"])


def test_masks_and_boxes_as_the_command_line_gives_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {name: value for name, value in arguments(folder).items() if name not in ("mask", "crop")}
    flags |= {"out": tmp_path / "out", "tasks": "[malignancy]", "crop": "[8,10,10]"}
    common = [f"--{name}={value}" for name, value in flags.items()]
    box = "{left: -72 -48 -30 -40 -16 30}"
    for own, sides in ((["--mask", str(folder / "mask.nii.gz")], ["left", "right"]), (["--box", box], ["left"])):
        assert auto_cli({"embed": embed}, args=["embed", *common, *own], as_positional=False) == 0
        content = json.loads((tmp_path / "out/embedding.json").read_text())
        assert [kidney["side"] for kidney in content["kidneys"]] == sides


def test_the_crop_is_that_of_the_profile_with_the_models_contract() -> None:
    assert network_crop(PreprocessingContract(grid=(40, 48, 48))) == (36, 44, 44)
    assert network_crop(PreprocessingContract()) == (32, 128, 128)
    with pytest.raises(DataError, match="is that of no profile"):
        network_crop(CONTRACT)
    with pytest.raises(DataError, match="expected three numbers"):
        network_crop(CONTRACT, [8, 8])


def test_bad_requests_are_refused_before_the_scan_is_read(folder: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone.nii.gz"
    with pytest.raises(DataError, match="TASKS=malignant is not known"):
        embed(**arguments(folder, source=gone, tasks=["malignant"]))
    with pytest.raises(DataError, match="1 of 1 masks were not found"):
        embed(**arguments(folder, source=gone, mask=gone))
    with pytest.raises(DataError, match="Neither a cohort nor an aligned model was named"):
        embed(**arguments(folder, source=gone, data=None, model=None))
    with pytest.raises(ModelError, match="holds no exported encoder"):
        embed(**arguments(folder, source=gone, attributes=tmp_path))
    with pytest.raises(DataError, match="is that of no profile"):
        embed(**arguments(folder, source=gone, crop=None))


@pytest.mark.real_data
def test_a_real_ct_from_end_to_end(real_data: Path, folder: Path, tmp_path: Path) -> None:
    samples = real_data / "ct_samples"
    masks = [samples / f"kidney_{side}.nii.gz" for side in ("left", "right")]
    more = {"source": samples / "ct_with_kidneys_3mm.nii.gz", "mask": masks, "phase": "non_contrast"}
    assert embed(**arguments(folder, **more, out=tmp_path)) == 0
    content = json.loads((tmp_path / "embedding.json").read_text())
    assert [kidney["side"] for kidney in content["kidneys"]] == ["left", "right"]
    assert content["kidneys"][0]["measures"]["kidney_volume_ml"] == pytest.approx(99.25, abs=0.1)
    assert (tmp_path / "embedding.png").stat().st_size > 50_000
