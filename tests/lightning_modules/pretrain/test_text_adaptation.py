"""Training adapters: what a checkpoint holds, and that a run resumes exactly where it was cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
import safetensors.torch
import torch

from callbacks.checkpoint import LastCheckpoint
from callbacks.seeding import EpochSeed
from datamodules.texts import ReportDataModule
from lightning_modules.core.errors import ModelError
from lightning_modules.core.optimization import OptimizerConfig
from lightning_modules.export.text import TRANSLATOR, load_text_encoder, save_text_encoder
from lightning_modules.networks.text.encoder import TextEncoder, TextEncoderConfig
from lightning_modules.pretrain.text_adaptation import MaskedNextToken, TextAdaptation, UnsupervisedSimcse
from tests.tiny_text import TEXTS, make_base, stir


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "tiny", num_hidden_layers=2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(6):
        for place, text in enumerate(TEXTS):
            (folder / f"{number}{place}.txt").write_text(f"{text} {' cyst' * number}")
    return folder


def config(base: Path, **changed: Any) -> TextEncoderConfig:
    settings = {"quantization": "nf4", "max_length": 32, "lora_rank": 4, "lora_dropout": 0.2}
    return TextEncoderConfig(str(base), "tiny", **{**settings, **changed})


def fit(
    kind: type[TextAdaptation], base: Path, corpus: Path, folder: Path, *, epochs: int, stop: int, **options: Any
) -> TextAdaptation:
    """Train for `stop` of `epochs` epochs, from the folder's last checkpoint where there is one."""
    lightning.seed_everything(7, verbose=False)
    objective = "mntp" if kind is MaskedNextToken else "views"
    data = ReportDataModule(
        folder, str(base), "tiny", 32, objective=objective, corpus=corpus, held_out_share=0.3, batch_size=4
    )
    optimizer = OptimizerConfig(lr=1e-2, kind=options.pop("optimizer", "adamw"))
    module = kind(config(base, **options.pop("text", {})), data.contract, optimizer, **options)

    class Stop(lightning.pytorch.callbacks.Callback):
        def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
            trainer.should_stop = trainer.current_epoch + 1 >= stop

    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, default_root_dir=folder, use_distributed_sampler=False,
        callbacks=[EpochSeed(7), LastCheckpoint(folder), Stop()],
    )  # fmt: skip
    last = folder / "last.ckpt"
    trainer.fit(module, data, ckpt_path=str(last) if last.is_file() else None, weights_only=True)
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "optimizer", "layers"),
    [(MaskedNextToken, "paged_adamw8bit", None), (MaskedNextToken, "adamw", 1), (UnsupervisedSimcse, "adamw", None)],
)
def test_a_run_resumes_exactly(
    kind: type[TextAdaptation], optimizer: str, layers: int | None, base: Path, corpus: Path, tmp_path: Path
) -> None:
    text = {"layers": layers}
    whole = fit(kind, base, corpus, tmp_path / "whole", epochs=2, stop=2, optimizer=optimizer, text=text)
    fit(kind, base, corpus, tmp_path / "cut", epochs=2, stop=1, optimizer=optimizer, text=text)
    resumed = fit(kind, base, corpus, tmp_path / "cut", epochs=2, stop=2, optimizer=optimizer, text=text)
    one, two = (torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("whole", "cut"))
    assert one["global_step"] == two["global_step"] > 4
    for name, value in one["state_dict"].items():
        assert torch.equal(value, two["state_dict"][name]), name
    states = [run["optimizer_states"][0]["state"] for run in (one, two)]
    assert states[0].keys() == states[1].keys()
    for number, state in states[0].items():
        for name, value in state.items():
            same = torch.equal(value, states[1][number][name]) if isinstance(value, torch.Tensor) else True
            assert same, (number, name)
    torch.testing.assert_close(whole.start_rows, resumed.start_rows)
    assert float(whole.val_rows[:, 0].sum()) < float(whole.start_rows[:, 0].sum()) or kind is UnsupervisedSimcse
    # The base, packed or not, is in no checkpoint, and neither is a path.
    translator = {name for name in one["state_dict"] if name.startswith("encoder.translator.")}
    assert all("lora_" in name for name in set(one["state_dict"]) - translator)
    assert len(translator) == (0 if layers is None else 2)
    content = {name: value for name, value in one.items() if name not in ("state_dict", "optimizer_states")}
    assert str(base.parent) not in repr(content)
    assert (tmp_path / "whole" / "last.ckpt").stat().st_size < 600_000


def test_the_next_objective_starts_from_the_adapters(base: Path, corpus: Path, tmp_path: Path) -> None:
    encoder = TextEncoder(config(base, lora_dropout=0.0), "cpu")
    stir(encoder)
    sha256 = save_text_encoder(tmp_path / "out", encoder, "# Card")
    module = UnsupervisedSimcse(
        config(base, projection=5), {}, OptimizerConfig(), pretrained=tmp_path / "out", pretrained_sha256=sha256
    )
    module.build("cpu")
    found = module.encoder.adapter_state()
    assert found.pop("projection.weight").shape == (5, 64)
    for name, value in encoder.adapter_state().items():
        assert torch.equal(found[name], value)
    assert module.encoder.training
    for changed, message in (
        ({"pretrained_sha256": "0" * 64}, "They were trained anew since"),
        ({"text": config(base, quantization="none")}, "quantization: nf4 there, none here"),
        ({"text": config(make_base(tmp_path / "other", seed=4, num_hidden_layers=2))}, "base: "),
    ):
        options = {"text": config(base), "pretrained": tmp_path / "out", "pretrained_sha256": sha256, **changed}
        with pytest.raises(ModelError, match=message):
            UnsupervisedSimcse(contract={}, optimizer=OptimizerConfig(), **options).build("cpu")


def test_the_translation_of_a_cut_base_brings_its_states_to_those_of_the_whole_and_travels(
    base: Path, corpus: Path, tmp_path: Path
) -> None:
    module = fit(MaskedNextToken, base, corpus, tmp_path / "run", epochs=1, stop=1, text={"layers": 1})
    encoder = module.encoder.eval()
    whole = TextEncoder(config(base, bidirectional=False, adapter=False), "cpu")
    ids, mask = encoder.tokenize(list(TEXTS)).values()
    with torch.no_grad(), encoder.backbone.disable_adapter():
        states, target = encoder.hidden(ids, mask)[mask.bool()], whole.hidden(ids, mask)[mask.bool()]
        assert encoder.translator is not None
        ours = (encoder.translator(states) - target).square().mean()
    # The weights are random, and a fifth of the tokens were masked where the translation was found.
    assert ours < 0.9 * target.var(dim=0).mean() < 0.9 * (states - target).square().mean()
    save_text_encoder(tmp_path / "out", encoder, "# Card")
    again = load_text_encoder(tmp_path / "out", str(base), "cpu", head=True)
    logits = encoder.logits(states)
    assert torch.equal(again.logits(states), logits)
    after = UnsupervisedSimcse(config(base, layers=1), {}, OptimizerConfig(), pretrained=tmp_path / "out")
    after.build("cpu")
    save_text_encoder(tmp_path / "next", after.encoder, "# Card")
    assert torch.equal(load_text_encoder(tmp_path / "next", str(base), "cpu", head=True).logits(states), logits)
    assert encoder.fingerprint() == again.fingerprint()
    damaged = {"weight": torch.eye(3), "bias": torch.zeros(3)}
    safetensors.torch.save_file(damaged, tmp_path / "next" / TRANSLATOR)
    with pytest.raises(ModelError, match=f"{TRANSLATOR} in next does not fit: bias"):
        load_text_encoder(tmp_path / "next", str(base), "cpu", head=True)


@pytest.mark.slow
def test_a_checkpoint_of_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    module = UnsupervisedSimcse(config(base), {}, OptimizerConfig())
    module.build("cpu")
    module.start_rows = torch.zeros(1, 2)
    checkpoint = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    module.on_save_checkpoint(checkpoint)
    module.on_load_checkpoint(checkpoint)
    other = UnsupervisedSimcse(config(make_base(tmp_path / "b", seed=9, num_hidden_layers=2)), {}, OptimizerConfig())
    other.build("cpu")
    with pytest.raises(ModelError, match="The checkpoint was trained on tiny, and this base does not fit"):
        other.on_load_checkpoint(checkpoint)
    smaller = UnsupervisedSimcse(config(base, projection=3), {}, OptimizerConfig())
    smaller.build("cpu")
    with pytest.raises(ModelError, match=r"projection\.weight"):
        smaller.on_load_checkpoint(checkpoint)
    with pytest.raises(ModelError, match=r"nothing to train"):
        UnsupervisedSimcse(config(base, adapter=False), {}, OptimizerConfig())
    with pytest.raises(ModelError, match=r"expected more than 0"):
        UnsupervisedSimcse(config(base), {}, OptimizerConfig(), temperature=0.0)
