"""The text stage end to end: configurations, three objectives in order, an encoder that loads back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from datamodules.errors import DataError
from datamodules.files import read_json
from experiments.pretraining.pretrain import chosen_parts
from experiments.pretraining.stages.common import Pretraining
from experiments.pretraining.stages.text import run
from experiments.registry import CONFIGS, PROFILES
from experiments.runs.configuration import Configuration
from experiments.runs.console import configure_output
from experiments.runs.folders import OBJECTIVES, text_encoder_folder
from lightning_modules.core.errors import ModelError
from lightning_modules.export.text import load_text_encoder
from tests.datamodules.test_texts import add_reports
from tests.tiny_text import TEXTS, make_base


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_parses(profile: str, objective: str) -> None:
    flags = [f"--config={CONFIGS / 'cohort' / 'demo.yaml'}"]
    resolved = Configuration.of(objective, profile=profile, encoder=None, flags=flags).resolved()
    assert resolved["text"]["base_name"]
    assert resolved["text"]["bidirectional"]
    assert resolved["data"]["class_path"].endswith("ReportDataModule")
    assert resolved["data"]["init_args"]["objective"] == {"mntp": "mntp", "simcse": "views"}.get(
        objective, "attributes"
    )


def test_profiles_change_the_size_of_the_base_only() -> None:
    for name in PROFILES:
        content = yaml.safe_load((CONFIGS / "profile" / f"{name}.yaml").read_text())["text"]
        assert set(content) <= {"base_name", "layers", "quantization", "checkpointing", "max_length"}


@pytest.mark.slow
def test_three_objectives_give_an_encoder_and_are_not_repeated(
    tiny_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_output()
    cohort = add_reports(tiny_copy)
    base = make_base(tmp_path / "secret" / "tiny", num_hidden_layers=2)
    extra = [f"--text.base={base}", "--text.layers=1", "--text.lora_rank=4", "--text.max_length=32"]
    extra += [
        "--text.projection=16",
        "--trainer.accelerator=cpu",
        "--data.init_args.batch_size=4",
        "--trainer.limit_train_batches=2",
    ]
    wanted = Pretraining(data=tiny_copy, runs=tmp_path / "runs", devices="1", extra=tuple(extra))
    assert text_encoder_folder(wanted.runs, cohort, wanted.seed, None) is None
    run(wanted, cohort, None, ("mntp",))
    first = text_encoder_folder(wanted.runs, cohort, wanted.seed, None)
    assert first is not None
    run(wanted, cohort, None)
    shown = capsys.readouterr().out
    assert "Masked next-token prediction is finished already" in shown
    assert "Phantom results" in shown
    stage = tmp_path / "runs/renal/tiny/pretrain/text-s42"
    assert {path.name for path in stage.iterdir()} == set(OBJECTIVES)
    folder = text_encoder_folder(wanted.runs, cohort, wanted.seed, None)
    assert folder == stage / "attribute_contrast" / "encoder"
    done = read_json(stage / "attribute_contrast" / "DONE")
    encoder = load_text_encoder(folder, str(base), "cpu")
    assert encoder.fingerprint() == done["encoder_fingerprint"]
    assert encoder.config.base_name == "tiny"
    with torch.no_grad():
        assert encoder(**encoder.tokenize(TEXTS)).shape == (len(TEXTS), 16)
    # The weights are those of the best checkpoint, which holds what was trained alone and no path.
    checkpoint = torch.load(stage / "attribute_contrast" / "checkpoints" / "best.ckpt", weights_only=True)
    heads = {"heads.weight", "heads.bias"}
    assert heads < set(checkpoint["state_dict"])
    translator = {name for name in checkpoint["state_dict"] if "translator" in name}
    assert len(translator) == 2  # of a cut base, handed on from objective to objective
    assert len(set(checkpoint["state_dict"]) - heads - translator) == len(encoder.adapter_state())
    shas = {(stage / name / "encoder/translator.safetensors").read_bytes() for name in OBJECTIVES}
    assert len(shas) == 1
    texts = [path.read_text() for path in folder.rglob("*") if path.suffix in (".json", ".md")]
    assert "secret" not in json.dumps(checkpoint["hyper_parameters"]) + "".join(texts)
    before = (stage / "mntp" / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    run(wanted, cohort, None)
    assert (stage / "mntp" / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before


def test_parts_of_the_stage_are_chosen_by_name() -> None:
    assert chosen_parts(["text:mntp", "image", "text:simcse"]) == {"text": ("mntp", "simcse"), "image": ()}
    assert chosen_parts(["text:mntp", "text"]) == {"text": ()}
    with pytest.raises(DataError, match="STAGES=text:=simcs is not known"):
        chosen_parts(["text:simcs"])
    with pytest.raises(DataError, match="the stage image has no parts, write STAGES=image"):
        chosen_parts(["image:mntp"])
    wanted = Pretraining(stages=("image", "text:mntp", "text:simcse"))
    assert wanted.arguments("text")["stages"] == ["text:mntp", "text:simcse"]
    assert wanted.arguments("image")["stages"] == ["image"]


def test_what_is_missing_is_said_before_training(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datamodules.cohort.cohort import Cohort

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    cohort = Cohort.load(tiny_root)
    wanted = Pretraining(profile="paper", data=tiny_root, runs=tmp_path / "runs", devices="1")
    with pytest.raises(DataError, match="Meta-Llama-3-8B-Instruct is not a folder here and the hub cannot be reached"):
        run(wanted, cohort, None, ("mntp",))
    with pytest.raises(DataError, match="objective=simcs is not known"):
        run(wanted, cohort, None, ("simcs",))
    base = make_base(tmp_path / "tiny", num_hidden_layers=1)
    small = Pretraining(data=tiny_root, runs=tmp_path / "runs", devices="1", extra=(f"--text.base={base}",))
    with pytest.raises((DataError, ModelError), match="has no reports"):
        run(small, cohort, None, ("mntp",))
