"""Pictures of painted outlines: which lesions are shown, and that what is shown is what the encoder paints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from datamodules.attributes import AttributeDataModule
from datamodules.augmentation import AugmentationConfig
from datamodules.cohort.columns import PHASES
from datamodules.loading.joined_phases import VolumeReader
from experiments.pretraining.evaluation.outlines import SHOWN, chosen_lesions, outline, outlines_figure
from lightning_modules.networks.image.encoders import EncoderConfig, build_encoder
from lightning_modules.networks.image.regions import RegionEncoder
from tests.experiments.pretraining.test_pretrain import write_reports
from tests.tiny import CONTRACT


def _predictions(count: int = 20) -> tuple[pd.DataFrame, pd.DataFrame]:
    keys = pd.DataFrame({"patient_id": [f"p{n}" for n in range(count)], "study_id": "s", "side": "left"})
    dice = np.linspace(0, 0.95, count)
    dice[3] = np.nan
    sizes = [30.0 if number < 12 else 55.0 for number in range(count)]
    predictions = keys.assign(role=["internal" if n % 2 else "external" for n in range(count)], lesion_dice=dice)
    return predictions, keys.assign(lesion_diameter_mm=sizes)


def test_worst_and_best_of_every_size_are_shown_of_external_centres() -> None:
    predictions, kidneys = _predictions()
    chosen = chosen_lesions(predictions, kidneys)
    assert list(chosen) == ["up to 4 cm", "4 to 7 cm"]
    small = chosen["up to 4 cm"]
    assert len(small) == SHOWN
    assert (small["patient_id"].iloc[0], small["patient_id"].iloc[-1]) == ("p0", "p10")
    assert len(chosen["4 to 7 cm"]) == 4  # there are no more
    internal = chosen_lesions(predictions[predictions["role"] == "internal"], kidneys)
    assert "p3" not in {name for part in internal.values() for name in part["patient_id"]}  # without a coefficient


@pytest.fixture
def parts(tiny_copy: Path) -> tuple[RegionEncoder, AttributeDataModule]:
    write_reports(tiny_copy)
    from experiments.cohorts.attributes import attributes

    attributes(tiny_copy)
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(network="regions", region_width=4, token_dim=6, region_dim=8)).eval()
    assert isinstance(encoder, RegionEncoder)
    module = AttributeDataModule(
        tiny_copy, contract=CONTRACT, augmentation=AugmentationConfig(crop=(8, 10, 10)), phases="joined", anatomy=True
    )
    return encoder, module


def test_what_is_shown_is_what_the_encoder_paints(
    parts: tuple[RegionEncoder, AttributeDataModule], tmp_path: Path
) -> None:
    encoder, module = parts
    row = module.plan.kidneys.iloc[0]
    shown = outline(encoder, module, (row["patient_id"], row["study_id"], row["side"]))
    volumes = module.plan.volumes
    own = volumes.index[(volumes.index[["patient_id", "study_id", "side"]] == row[:3].to_numpy()).all(axis=1)]
    image = module.augmentation.evaluate(VolumeReader(volumes, joined=True)(int(own["position"].iloc[0]))[None])
    classes = encoder.see(image).anatomy[0].argmax(dim=0)[0]  # the mask has no lesion, so that the first slice is shown
    assert np.array_equal(shown.painted, torch.isin(classes, torch.tensor([2, 3])).numpy())
    assert np.array_equal(shown.image, image[0, PHASES.index("arterial"), 0].numpy())
    assert not shown.drawn.any()

    kidneys = module.plan.kidneys.iloc[:6][["patient_id", "study_id", "side"]]
    module.plan.cohort.tables["kidneys"]["lesion_diameter_mm"] = 30.0
    predictions = kidneys.assign(role="external", lesion_dice=np.linspace(0, 1, 6)).reset_index(drop=True)
    outlines_figure(tmp_path / "outlines.png", encoder, module, predictions)
    assert (tmp_path / "outlines.png").stat().st_size > 10_000
    outlines_figure(tmp_path / "none.png", encoder, module, predictions.drop(columns="lesion_dice"))
    assert not (tmp_path / "none.png").exists()
