"""An encoder in Python: the features of a scan are those that its kidneys have in a cohort."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from datamodules.augmentation import AugmentationConfig, VolumeAugmentation
from datamodules.errors import DataError
from datamodules.importers.nifti.manifest import ManifestSource
from datamodules.importers.plan import CohortPlan
from datamodules.loading.joined_phases import joined_views
from lightning_modules.core.errors import ModelError
from lightning_modules.export.image import load_exported, save_encoder
from lightning_modules.networks.image.encoders import EncoderConfig, build_encoder
from renal_vlm import load_encoder
from tests.datamodules.importers.nifti_phantom import AFFINE, kidney, labels, save, scan_hu
from tests.experiments.aligned_tiny import CROP, ENCODER, REGIONS, export
from tests.tiny import CONTRACT


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scan.nii.gz and mask.nii.gz of the phantom, and the manifest that would import them."""
    folder = tmp_path_factory.mktemp("scans")
    save(folder / "scan.nii.gz", scan_hu(), axes="LPS")
    save(folder / "mask.nii.gz", labels())
    row = {"patient_id": "p", "study_id": "e", "series_id": "s", "center": "A", "phase": "venous"}
    pd.DataFrame([row | {"image": "scan.nii.gz", "mask": "mask.nii.gz"}]).to_csv(folder / "manifest.csv", index=False)
    return folder


def run_of(tmp_path: Path, config: EncoderConfig) -> Path:
    """The run of a stage with an encoder of random weights."""
    torch.manual_seed(0)
    save_encoder(tmp_path / "run/encoder", build_encoder(config), config, CONTRACT.to_dict(), "card")
    return tmp_path / "run"


@pytest.mark.parametrize("config", [ENCODER, REGIONS], ids=["one phase", "joined phases"])
def test_features_are_those_of_the_cohorts_path(tmp_path: Path, scans: Path, config: EncoderConfig) -> None:
    run = run_of(tmp_path, config)
    record = ManifestSource(scans / "manifest.csv", CohortPlan("one")).load("p", CONTRACT)
    augmentation = VolumeAugmentation(CONTRACT, AugmentationConfig(crop=CROP))
    network, _ = load_exported(str(run / "encoder"))
    found = load_encoder(str(run), crop=CROP, device="cpu").encode(
        str(scans / "scan.nii.gz"), str(scans / "mask.nii.gz"), phase="venous"
    )
    assert list(found) == ["left", "right"]
    for volume in record.volumes:
        one = torch.from_numpy(volume.image)[None, None]
        image = joined_views([volume.image], ["venous"]) if config is REGIONS else one
        with torch.no_grad():
            expected = network(augmentation.evaluate(image))[0].numpy()
        np.testing.assert_allclose(found[volume.side], expected, atol=1e-5)
    assert not np.allclose(found["left"], found["right"])


def test_boxes_and_folders_are_taken_and_an_aligned_model_knows_its_crop(tmp_path: Path, scans: Path) -> None:
    run = run_of(tmp_path, ENCODER)
    encoder = load_encoder(run / "encoder", crop=CROP)
    points = {side: np.argwhere(kidney(side)) @ AFFINE[:3, :3].T + AFFINE[:3, 3] for side in ("left", "right")}
    boxes = {side: " ".join(map(str, [*own.min(axis=0), *own.max(axis=0)])) for side, own in points.items()}
    by_mask = encoder.encode(scans / "scan.nii.gz", [scans / "mask.nii.gz"])
    by_box = encoder.encode(scans / "scan.nii.gz", box=boxes)
    for side, feature in by_mask.items():
        np.testing.assert_array_equal(by_box[side], feature)
    model = export(tmp_path / "model")
    with pytest.raises(DataError, match="that of no profile"):
        load_encoder(model)  # the tiny contract is no profile's, and this model recorded none
    text = (model / "alignment.json").read_text()
    (model / "alignment.json").write_text(text.replace('"crop": null', f'"crop": {list(CROP)}'))
    assert text != (model / "alignment.json").read_text()
    assert load_encoder(model).encode(scans / "scan.nii.gz", scans / "mask.nii.gz").keys() == by_mask.keys()


def test_what_is_no_encoder_is_refused_with_what_to_name(tmp_path: Path, scans: Path) -> None:
    (tmp_path / "image-s42").mkdir()
    with pytest.raises(ModelError, match=r"image-s42 holds no model\.safetensors; name the run of a stage"):
        load_encoder(str(tmp_path / "image-s42"))
    with pytest.raises(DataError, match="without a mask and without a box"):
        load_encoder(run_of(tmp_path, ENCODER), crop=CROP).encode(scans / "scan.nii.gz")
