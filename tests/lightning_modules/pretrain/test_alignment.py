"""Alignment: the shared space, its export, retrieval, and training in micro-batches as in one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader

from lightning_modules.core.errors import ModelError
from lightning_modules.core.optimization import OptimizerConfig, make_optimizer
from lightning_modules.export.aligned import load_aligned, save_aligned
from lightning_modules.export.image import load_exported
from lightning_modules.metrics.patient_scores import PatientTable
from lightning_modules.metrics.retrieval import first_hit_ranks, recall_at, retrieval_ranks
from lightning_modules.networks.image.encoders import EncoderConfig
from lightning_modules.pretrain.alignment import ClipAlignment, paired

CONTRACT = {"grid": [8, 12, 12], "region": "kidney"}
SMALL = EncoderConfig(width=8, depth=10, norm="group", stem_pool=False)
TEXT_DIM, ROWS, CLIP = 6, 8, 0.05


def make_module(**options: Any) -> ClipAlignment:
    torch.manual_seed(0)
    settings = {"encoder": SMALL, "optimizer": OptimizerConfig(lr=0.01), "loss": "infonce", **options}
    counts = {"lesion_present": {"no": 3, "yes": 5}, "pole": {"upper": 4, "lower": 2, "interpolar": 1}}
    return ClipAlignment(text_dim=TEXT_DIM, text_fingerprint="abc", class_counts=counts, contract=CONTRACT, **settings)


def make_batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "image": torch.rand(ROWS, 1, 4, 8, 8, generator=generator),
        "text": torch.randn(ROWS, TEXT_DIM, generator=generator) + 3,
        "report_id": torch.tensor([0, 1, 2, 3, 4, 5, 0, 1]),
        "attributes": torch.tensor([[0, 0], [1, 0], [1, 2], [0, 1], [1, -100], [1, 2], [0, 0], [1, 0]]),
        "kidney": torch.arange(ROWS),
        "sample": torch.arange(ROWS),
    }


class Data(lightning.LightningDataModule):
    """One batch, or the rows of it that a rank has."""

    def __init__(self, rows: slice = slice(None), scale: int = 1) -> None:
        super().__init__()
        self.rows, self.scale = rows, scale

    def train_dataloader(self) -> DataLoader[dict[str, torch.Tensor]]:
        batch = {name: value[self.rows] for name, value in make_batch().items()}
        batch["image"] = nn.functional.interpolate(batch["image"], scale_factor=self.scale)
        return DataLoader([batch], batch_size=None)  # type: ignore[arg-type]

    val_dataloader = train_dataloader

    def text_mean(self) -> torch.Tensor:
        return make_batch()["text"].mean(dim=0)


class Gradients(Callback):
    """What the optimiser saw in the last step: gradients after clipping."""

    def on_train_batch_end(self, trainer: Any, pl_module: lightning.LightningModule, *_: Any) -> None:
        self.found = {name: value.grad.clone() for name, value in pl_module.named_parameters()}  # type: ignore[union-attr]


def fit(
    module: ClipAlignment, folder: Path, rows: slice = slice(None), scale: int = 1, **options: Any
) -> lightning.Trainer:
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, gradient_clip_val=CLIP, default_root_dir=folder, **options,
    )  # fmt: skip
    trainer.fit(module, datamodule=Data(rows, scale))
    return trainer


@pytest.mark.parametrize("loss", ["siglip", "knowledge"])
def test_a_step_in_micro_batches_is_the_step_at_once(loss: str, tmp_path: Path) -> None:
    at_once, in_parts = make_module(loss=loss), make_module(loss=loss, micro_batch=3)
    seen = [Gradients(), Gradients()]
    first, second = fit(at_once, tmp_path, callbacks=seen[0]), fit(in_parts, tmp_path, callbacks=seen[1])
    expected = seen[0].found
    norm = torch.stack([value.norm() for value in expected.values()]).norm()
    torch.testing.assert_close(norm, torch.tensor(CLIP), rtol=1e-4, atol=0.0)
    for name, value in seen[1].found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=name)
    torch.testing.assert_close(first.callback_metrics["train/loss"], second.callback_metrics["train/loss"])
    torch.testing.assert_close(at_once.model.text_mean, Data().text_mean())
    before = make_module(loss=loss)
    assert not torch.allclose(before.model.image_head.weight, at_once.model.image_head.weight)
    assert not torch.equal(before.model.logit_scale, at_once.model.logit_scale)


def test_mixed_precision_trains_in_micro_batches(tmp_path: Path) -> None:
    module = make_module(micro_batch=3)
    # On a CPU with bfloat16 units oneDNN (torch 2.13) now and then gives NaN as the gradient of a kernel that is longer
    # than its volume, as no volume but a test's is.
    with torch.backends.mkldnn.flags(enabled=False):
        trainer = fit(module, tmp_path, scale=2, precision="bf16-mixed")
    assert torch.isfinite(trainer.callback_metrics["val/loss"])
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())


def test_images_may_be_anything_that_gives_a_slice() -> None:
    class Images:
        def __len__(self) -> int:
            return ROWS

        def __getitem__(self, part: slice) -> torch.Tensor:
            return make_batch()["image"][part]

    for micro_batch in (None, 3):
        module = make_module(micro_batch=micro_batch)
        torch.testing.assert_close(module(Images()), module(make_batch()["image"]))


def test_the_scale_begins_at_clips_and_stays_at_100_at_most() -> None:
    module = make_module()
    assert float(module.model.scale().detach()) == pytest.approx(1 / 0.07)
    with torch.no_grad():
        module.model.logit_scale.fill_(7.0)
    module.on_train_batch_end(None, None, 0)
    assert float(module.model.scale().detach()) == pytest.approx(100.0)
    siglip = make_module(loss="siglip")
    assert siglip.model.logit_bias is not None
    assert float(siglip.model.logit_bias.detach()) == -10.0
    assert float(siglip.model.scale().detach()) == pytest.approx(10.0)


def test_the_backbone_has_a_rate_of_its_own() -> None:
    module = make_module(embed_dim=5)
    config = OptimizerConfig(lr=5e-4, backbone_lr=1e-5, warmup=0.0)
    groups = make_optimizer(module, config, 10, module.backbone())["optimizer"].param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert len(rates) == len(list(module.parameters()))
    for name, parameter in module.named_parameters():
        assert rates[id(parameter)] == (1e-5 if name.startswith("model.image_encoder.") else 5e-4), name
    plain = make_optimizer(module, OptimizerConfig(lr=5e-4, warmup=0.0), 10, module.backbone())["optimizer"]
    assert {group["lr"] for group in plain.param_groups} == {5e-4}
    with pytest.raises(ModelError, match="has no backbone"):
        make_optimizer(torch.nn.Linear(2, 2), config, 10)
    with pytest.raises(ModelError, match="backbone_lr=0"):
        OptimizerConfig(backbone_lr=0.0)


@pytest.mark.parametrize("embed_dim", [None, 5])
def test_a_saved_model_is_the_same_model_and_an_encoder(embed_dim: int | None, tmp_path: Path) -> None:
    module, batch = make_module(embed_dim=embed_dim).eval(), make_batch()
    module.model.text_mean.copy_(Data().text_mean())
    folder = tmp_path / "aligned"
    sha256 = save_aligned(folder, module.model, "# Card\n")
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "alignment.json", "alignment.safetensors", "config.json", "contract.json", "model.safetensors",
    }  # fmt: skip
    again = load_aligned(str(folder))
    with torch.no_grad():
        assert torch.equal(again.embed_image(batch["image"]), module.model.embed_image(batch["image"]))
        assert torch.equal(again.embed_text(batch["text"]), module.model.embed_text(batch["text"]))
    torch.testing.assert_close(again.embed_text(batch["text"]).norm(dim=1), torch.ones(ROWS))
    assert again.embed_dim == (embed_dim or TEXT_DIM)
    assert again.text_encoder == {"fingerprint": "abc"}
    assert again.contract == CONTRACT
    encoder, exported = load_exported(folder)
    assert exported.sha256 == sha256
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, module.model.image_encoder.state_dict()[name])
    assert sha256 == save_aligned(folder, module.model, "# Card\n")  # writing it again is no harm
    warm = make_module(pretrained=folder, pretrained_sha256=sha256, loss="siglip")
    assert torch.equal(warm.model.image_encoder.state_dict()["network.conv1.weight"], encoder.network.conv1.weight)
    with pytest.raises(ModelError, match="was trained anew since"):
        make_module(pretrained=folder, pretrained_sha256="0" * 64)


def test_what_cannot_be_loaded_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "aligned"
    save_aligned(folder, make_module().model, "# Card\n")
    with pytest.raises(ModelError, match=r"expected \[B, 6\]"):
        load_aligned(folder).embed_text(torch.zeros(2, 4))
    with pytest.raises(ModelError, match="no folder here, and no hub id"):
        load_aligned(tmp_path / "nothing")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="was not found on the hub"):
        load_aligned("nobody/nothing")
    content = json.loads((folder / "alignment.json").read_text())
    (folder / "alignment.json").write_text(json.dumps({**content, "encoder_sha256": "f" * 64}))
    with pytest.raises(ModelError, match=r"alignment.json and alignment.safetensors are not as they were written"):
        load_aligned(folder)
    earlier = {name: value for name, value in content.items() if name != "crop"}
    (folder / "alignment.json").write_text(json.dumps(earlier))
    with pytest.raises(ModelError, match=r"alignment\.json has no crop, so it is of another version"):
        load_aligned(folder)
    (folder / "alignment.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no alignment\.safetensors"):
        load_aligned(folder)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ModelError, match="choose one of infonce"):
        make_module(loss="clip")
    with pytest.raises(ModelError, match="micro_batch=0"):
        make_module(micro_batch=0)
    with pytest.raises(ModelError, match="dimensions of at least 1"):
        make_module(embed_dim=0)


def test_hyper_parameters_rebuild_the_module_from_plain_data(tmp_path: Path) -> None:
    module = make_module(loss="siglip", embed_dim=5, micro_batch=4)
    again = ClipAlignment(**module.hparams)
    again.load_state_dict(module.state_dict())
    json.dumps(dict(module.hparams))


def _units(degrees: list[float]) -> torch.Tensor:
    return torch.tensor([[math.cos(math.radians(value)), math.sin(math.radians(value))] for value in degrees])


def test_an_identical_report_is_a_hit_and_one_candidate() -> None:
    # Images 0, 1 and 2 have the same normal report at 0 degrees; image 3 has its own at 90.
    image, text = _units([10, 80, 100, 85]), _units([0, 0, 0, 90])
    ranks = retrieval_ranks(image, text, torch.tensor([7, 7, 7, 2]))
    assert ranks.image_to_text.tolist() == [1, 2, 2, 1]
    assert ranks.text_to_image.tolist() == [1, 1]  # in the order of ids: report 2, then report 7
    assert float(recall_at(ranks.image_to_text, 1)) == 0.5
    order = torch.tensor([3, 1, 0, 2])
    moved = retrieval_ranks(image[order], text[order], torch.tensor([7, 7, 7, 2])[order])
    assert torch.equal(moved.image_to_text, ranks.image_to_text[order])
    assert torch.equal(moved.text_to_image, ranks.text_to_image)


def test_a_constant_embedding_retrieves_nothing_by_luck() -> None:
    same = torch.ones(9, 2)
    ranks = first_hit_ranks(same, same, torch.arange(9), torch.arange(9))
    assert ranks.tolist() == [9] * 9
    assert first_hit_ranks(same[:1], same, torch.arange(9), torch.tensor([20])).tolist() == [10]


def test_validation_averages_the_phases_of_a_kidney() -> None:
    module = make_module().eval()
    batch = make_batch()
    table = PatientTable(
        torch.arange(4), torch.randn(4, 2 * TEXT_DIM), torch.tensor([[0, 1, 0], [1, 1, 0], [2, 0, 1], [0, 0, 0]])
    )
    image, text, report_id = paired(table)
    torch.testing.assert_close(image.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(text.norm(dim=1), torch.ones(4))
    assert report_id.tolist() == [0, 1, 2, 0]
    scores = module.scores(table)
    parts = [value for name, value in scores.items() if "recall_at" in name]
    assert len(parts) == 4
    torch.testing.assert_close(scores["mean_recall"], torch.stack(parts).mean())
    batch["kidney"] = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    with torch.no_grad():
        module.validation_step(batch, 0)
        collected = module.val_pairs.compute()
        single = module(batch["image"])
    torch.testing.assert_close(collected.score[0, :TEXT_DIM], single[:2].mean(dim=0))
