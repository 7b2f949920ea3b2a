"""The alignment stage end to end on a tiny cohort: embedded, aligned, exported, skipped, refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.identity import DataIdentity, digests
from datamodules.cohort.trained_on import TrainedOn
from datamodules.errors import DataError
from datamodules.files import read_json
from experiments.aligned.shared_space import SpaceOptions, load_space
from experiments.encoders.exported import exported_encoder
from experiments.pretraining.stages import alignment, image
from experiments.pretraining.stages.common import Pretraining
from experiments.runs.console import configure_output
from experiments.runs.folders import stage_folder
from lightning_modules.export.aligned import TEXT, load_aligned
from lightning_modules.export.image import load_exported
from lightning_modules.export.text import load_text_encoder, save_text_encoder
from lightning_modules.networks.text.encoder import TextEncoder, TextEncoderConfig
from tests.datamodules.test_alignment import write_reports
from tests.tiny_text import make_base, stir

TINY = {
    "contract": {"grid": [8, 12, 12]},
    "augmentation": {"crop": [8, 10, 10]},
    "encoder": {"width": 4, "depth": 10, "stem_pool": True},
    "trainer": {"max_epochs": 1, "accelerator": "cpu"},
    "data": {"init_args": {"samples_per_epoch": 16}},
}

OF_TEXT = TrainedOn(pd.DataFrame({"patient": [7], "volume": [-1]}))


def export_text(base: Path, runs: Path, cohort: Cohort, seed: int) -> str:
    """Export a text encoder of stirred weights as that of the text stage; its fingerprint."""
    config = TextEncoderConfig(base=str(base), base_name="tiny", quantization="none", lora_rank=2, max_length=48)
    encoder = TextEncoder(config, "cpu")
    stir(encoder, seed)
    folder = stage_folder(runs, cohort, "text", 42, None) / "attribute_contrast" / "encoder"
    save_text_encoder(folder, encoder, "# Card\n", OF_TEXT.write(folder))
    return encoder.fingerprint()


@pytest.mark.slow
def test_from_both_encoders_to_an_aligned_model(
    tiny_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_output()
    write_reports(tiny_copy)
    runs, base = tmp_path / "runs", make_base(tmp_path / "base")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    wanted = Pretraining(
        data=tiny_copy, runs=runs, devices="1", extra=(f"--config={tmp_path / 'tiny.yaml'}", f"--text.base={base}")
    )
    cohort = Cohort.load(tiny_copy)
    with pytest.raises(DataError, match="make pretrain STAGES=image"):
        alignment.run(wanted, cohort, None)
    image.run(wanted, cohort, None)
    with pytest.raises(DataError, match=r"no text encoder .* run `make pretrain STAGES=text` first"):
        alignment.run(wanted, cohort, None)
    fingerprint = export_text(base, runs, cohort, 1)
    alignment.run(wanted, cohort, None)
    shown = capsys.readouterr().out
    assert "Embedding" in shown
    assert "recall@5 among" in shown

    folder = stage_folder(runs, cohort, "alignment", 42, None)
    model = load_aligned(folder / "encoder")
    assert model.text_encoder["fingerprint"] == fingerprint
    encoder, exported = load_exported(folder / "encoder")
    assert exported.sha256 == read_json(folder / "DONE")["encoder_sha256"]
    checkpoint = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, checkpoint[f"model.image_encoder.{name}"])
    assert torch.equal(model.text_mean, checkpoint["model.text_mean"])
    seen = TrainedOn.read(folder / "encoder")  # its own patients, and those of both encoders that it started from
    own = TrainedOn.read(stage_folder(runs, cohort, "image", 42, None) / "encoder").patients
    people = cohort.patients()
    trained = people.loc[(people["role"] == "pretrain") & (people["split"] == "train"), "patient_id"]
    assert set(own) == set(digests(trained))
    assert set(seen.patients) == {7, *own}
    assert read_json(folder / "encoder/config.json")["training_data_sha256"] == seen.sha256
    assert read_json(folder / "DONE")["data_sha256"] == [DataIdentity.read(folder / "data.parquet").sha256]
    assert float(model.text_mean.abs().sum()) > 0
    written = [(folder / "encoder" / name).read_text() for name in ("alignment.json", "config.json", "README.md")]
    assert str(tmp_path) not in "".join(written)
    start = load_exported(stage_folder(runs, cohort, "image", 42, None) / "encoder")[0].state_dict()
    assert all(torch.equal(value, start[name]) for name, value in encoder.state_dict().items())  # it is locked
    table = pd.read_parquet(folder / "features.parquet")
    assert set(table["patient_id"]) == set(people.loc[people["role"] == "pretrain", "patient_id"])
    frozen = sorted(runs.glob("renal/tiny/features/*/features.npz"))
    assert len(frozen) == 1
    moved = replace(wanted, tag="moved", extra=(*wanted.extra, "--model.init_args.locked=false"))
    alignment.run(moved, cohort, None)
    encoder = load_exported(stage_folder(runs, cohort, "alignment", 42, None, "moved") / "encoder")[0]
    assert any(not torch.equal(value, start[name]) for name, value in encoder.state_dict().items())

    assert model.crop == (8, 10, 10)
    _variants(wanted, cohort, base, fingerprint)

    before = (folder / "checkpoints/best.ckpt").stat().st_mtime_ns
    alignment.run(wanted, cohort, None)
    assert "finished already" in capsys.readouterr().out
    assert (folder / "checkpoints/best.ckpt").stat().st_mtime_ns == before
    export_text(base, runs, cohort, 2)
    with pytest.raises(DataError, match="text_fingerprint"):
        alignment.run(wanted, cohort, None)


def _variants(wanted: Pretraining, cohort: Cohort, base: Path, adapted: str) -> None:
    """Other settings are runs of their own, each with its text encoder, and are found by the name of their encoder."""
    texts = ["There is a solid mass of 3 cm .", "No focal lesion in the left kidney"]
    for stage, encoder in (("alignment_lora", "aligned_lora"), ("alignment_base_text", "aligned_base_text")):
        # The un-adapted base has the profile's number of layers, which is more than this one has.
        own = ("--text.layers=2",) if stage == "alignment_base_text" else ()
        alignment.run(replace(wanted, extra=(*wanted.extra, *own)), cohort, None, stage)
        folder = exported_encoder(wanted.runs, cohort, encoder, 42, None)
        assert folder == stage_folder(wanted.runs, cohort, stage, 42, None) / "encoder"
        space = load_space(cohort, SpaceOptions(wanted.runs, encoder=encoder, base=str(base)))
        text = load_text_encoder(folder / TEXT, base=str(base), device="cpu")
        assert text.fingerprint() == space.model.text_encoder["fingerprint"] != adapted
        assert text.config.adapter == (stage == "alignment_lora")
        with torch.no_grad():
            expected = space.model.embed_text(text(**text.tokenize(texts)))
        np.testing.assert_allclose(space.texts(texts), expected.numpy(), atol=1e-5)
    (run,) = wanted.runs.glob("renal/tiny/pretrain/alignment_lora-s42")
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert str(base) not in str(checkpoint["hyper_parameters"])
    assert not any("embed_tokens" in name for name in checkpoint["state_dict"])
    with pytest.raises(DataError, match="ENCODER=aligned_one_stage has no weights"):
        load_space(cohort, SpaceOptions(wanted.runs, encoder="aligned_one_stage"))
    with pytest.raises(DataError, match="ENCODER=stage1 is not known"):
        SpaceOptions(wanted.runs, encoder="stage1")
