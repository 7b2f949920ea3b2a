"""A causal language model as a text encoder: it looks both ways, and padding, batch and storage change nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit

from lightning_modules.core.errors import ModelError
from lightning_modules.export.text import load_text_encoder, save_text_encoder
from lightning_modules.networks.text.adapters import merged
from lightning_modules.networks.text.encoder import TextEncoder, TextEncoderConfig, pool
from tests.tiny_text import FAMILIES, TEXTS, make_base, stir


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "tiny")


def make(base: Path, **changed: object) -> TextEncoder:
    torch.manual_seed(0)
    options: dict[str, object] = {"quantization": "none", "max_length": 32, "lora_rank": 4, "lora_dropout": 0.0}
    config = TextEncoderConfig(base=str(base), base_name="tiny", **{**options, **changed})  # type: ignore[arg-type]
    encoder = TextEncoder(config, "cpu")
    stir(encoder)
    return encoder


def first_state_moves(encoder: TextEncoder) -> bool:
    """Whether the first token's state depends on the last token."""
    ids = torch.arange(4, 16)[None]
    other = ids.clone()
    other[0, -1] = 20
    mask = torch.ones_like(ids)
    with torch.no_grad():
        return not torch.equal(encoder.hidden(ids, mask)[0, 0], encoder.hidden(other, mask)[0, 0])


def check_both_ways_and_padding(encoder: TextEncoder) -> None:
    assert first_state_moves(encoder)
    alone = [encoder.tokenize([text]) for text in TEXTS]
    together = encoder.tokenize(TEXTS)
    mode = encoder.training
    with torch.no_grad():
        batch = encoder(**together)
        for row, tokens in enumerate(alone):
            torch.testing.assert_close(encoder(**tokens)[0], batch[row], rtol=1e-4, atol=1e-4)
            # What stands where nothing is read changes nothing.
            noise = together["input_ids"].clone()
            noise[together["attention_mask"] == 0] = 7
            torch.testing.assert_close(encoder(noise, together["attention_mask"])[row], batch[row])
    assert encoder.training == mode


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_looks_both_ways(family: str, tmp_path: Path) -> None:
    folder = make_base(tmp_path / family, family)
    check_both_ways_and_padding(make(folder, layers=2))
    assert not first_state_moves(make(folder, layers=2, bidirectional=False))


@pytest.mark.parametrize("quantization", ["nf4", "none"])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_it_holds_in_4_bits_with_adapters_and_after_storage(
    base: Path, tmp_path: Path, quantization: str, checkpointing: bool
) -> None:
    encoder = make(base, quantization=quantization, checkpointing=checkpointing, projection=12)
    check_both_ways_and_padding(encoder)
    check_both_ways_and_padding(encoder.train())  # checkpointing works in training only; all dropout is 0
    encoder.eval()
    save_text_encoder(tmp_path / "out", encoder, "# Card")
    loaded = load_text_encoder(tmp_path / "out", str(base), "cpu")
    check_both_ways_and_padding(loaded)
    assert loaded.fingerprint() == encoder.fingerprint()
    tokens = encoder.tokenize(TEXTS)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**tokens), encoder(**tokens))
        assert loaded(**tokens).shape == (len(TEXTS), 12)


@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_checkpointing_gives_the_same_gradient(base: Path, quantization: str) -> None:
    gradients = []
    for checkpointing in (True, False):
        encoder = make(base, quantization=quantization, checkpointing=checkpointing).train()
        encoder(**encoder.tokenize(TEXTS)).square().sum().backward()
        trained = {name: value for name, value in encoder.named_parameters() if value.requires_grad}
        assert trained
        assert all("lora_" in name for name in trained)
        gradients.append({name: value.grad for name, value in trained.items()})
    for name, value in gradients[0].items():
        assert value is not None
        assert float(value.abs().max()) > 0
        torch.testing.assert_close(value, gradients[1][name])


def test_the_gradient_flows_through_a_base_in_4_bits_after_an_evaluation(base: Path) -> None:
    packed = make(base, quantization="nf4")
    tokens = packed.tokenize(TEXTS)
    with torch.no_grad():
        packed(**tokens)  # what bitsandbytes would pack the weights for
    plain = make(base, quantization="none")
    modules = dict(plain.named_modules())
    quantised = [
        (name, module)
        for name, module in packed.named_modules()
        if hasattr(getattr(module, "weight", None), "quant_state")
    ]
    assert quantised
    with torch.no_grad():
        for name, module in quantised:
            weight = dequantize_4bit(module.weight.data, module.weight.quant_state)
            modules[name].weight.copy_(weight)  # type: ignore[union-attr, operator]
    gradients = []
    for encoder in (packed, plain):
        encoder.train()(**tokens).square().sum().backward()
        gradients.append({name: value.grad for name, value in encoder.named_parameters() if value.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        torch.testing.assert_close(value, gradients[1][name], rtol=1e-3, atol=1e-5)


def test_the_first_layers_are_those_of_the_base(base: Path) -> None:
    cut, whole = make(base, layers=2, adapter=False), make(base, adapter=False)
    tokens = cut.tokenize(TEXTS)
    ours = cut.backbone(**tokens, output_hidden_states=True).hidden_states
    theirs = whole.backbone(**tokens, output_hidden_states=True).hidden_states
    assert len(ours) == 3
    torch.testing.assert_close(ours[1], theirs[1])
    for layers in (0, 4):
        with pytest.raises(ModelError, match="tiny has 3, expected 1 to that"):
            make(base, layers=layers)


def test_pooling_is_over_the_tokens_that_count() -> None:
    states = torch.tensor([[[1.0], [2.0], [6.0], [100.0]], [[100.0], [3.0], [5.0], [7.0]]])
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]]).bool()
    assert pool(states, mask, "mean").flatten().tolist() == [3.0, 5.0]
    weighted = [(1 + 4 + 18) / 6, (3 + 10 + 21) / 6]
    torch.testing.assert_close(pool(states, mask, "weighted_mean").flatten(), torch.tensor(weighted))
    assert pool(states, mask, "last").flatten().tolist() == [6.0, 7.0]
    assert pool(states, torch.zeros_like(mask), "mean").flatten().tolist() == [0.0, 0.0]


def test_words_and_context_stand_side_by_side(base: Path) -> None:
    encoder = make(base, pooling="first_last", layers=2, projection=None)
    check_both_ways_and_padding(encoder)
    tokens = encoder.tokenize(TEXTS[:1])
    words = encoder.backbone.get_input_embeddings()(tokens["input_ids"])[0]
    states = encoder.hidden(**tokens)[0]
    parts = [part / part.square().mean(dim=1, keepdim=True).sqrt() for part in (words, states)]
    expected = torch.cat([part.mean(dim=0) for part in parts])
    assert encoder.feature_dim == len(expected) == 2 * encoder.hidden_dim
    torch.testing.assert_close(encoder(**tokens)[0], expected, rtol=1e-4, atol=1e-4)
    # The words are a bag, so that an order shows in the context alone.
    turned = {**tokens, "input_ids": tokens["input_ids"].flip(1)}
    half = encoder.hidden_dim
    torch.testing.assert_close(encoder(**turned)[0, :half], expected[:half], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(encoder(**turned)[0, half:], expected[half:], atol=1e-3)
    assert make(base, pooling="first_last", projection=4).projection.in_features == 2 * half  # type: ignore[union-attr]


def test_a_prompt_steers_and_is_not_pooled(base: Path) -> None:
    encoder = make(base, prompt="a mass in the kidney :")
    tokens = encoder.tokenize(TEXTS[:1])
    assert tokens["input_ids"][0, 0] == 1  # <s> comes before the prompt
    states = encoder.hidden(**tokens)
    text = states[0, [0, *range(7, states.shape[1])]]
    torch.testing.assert_close(encoder(**tokens)[0], text.mean(dim=0))
    plain = make(base)
    assert not torch.allclose(plain(**plain.tokenize(TEXTS[:1])), encoder(**tokens), atol=1e-3)
    with pytest.raises(ModelError, match="takes 7 of 6 tokens"):
        make(base, prompt="a mass in the kidney :", max_length=6)


def test_texts_are_truncated_and_an_empty_one_is_a_vector(base: Path) -> None:
    encoder = make(base, max_length=5)
    tokens = encoder.tokenize([TEXTS[0], ""])
    assert tokens["input_ids"].shape == (2, 5)
    assert tokens["attention_mask"].sum(dim=1).tolist() == [5, 1]
    assert torch.isfinite(encoder(**tokens)).all()


def test_the_fingerprint_changes_with_what_an_embedding_depends_on(base: Path, tmp_path: Path) -> None:
    encoder = make(base)
    found = encoder.fingerprint()
    for changed in ({"lora_dropout": 0.3}, {"checkpointing": True}, {"attention_dropout": 0.1}):
        assert make(base, **changed).fingerprint() == found
    other = make_base(tmp_path / "other", seed=5)
    fingerprints = [found, make(other).fingerprint()]
    changes = ({"pooling": "first_last"}, {"max_length": 31}, {"prompt": "a mass"}, {"layers": 2}, {"projection": 4})
    for change in changes:
        fingerprints.append(make(base, **change).fingerprint())
    fingerprints += [make(base, bidirectional=False).fingerprint(), make(base, quantization="nf4").fingerprint()]
    with torch.no_grad():
        next(value for value in encoder.parameters() if value.requires_grad)[0, 0] += 1e-6
    assert len({*fingerprints, encoder.fingerprint()}) == len(fingerprints) + 1


def test_a_family_that_stays_causal_is_refused(tmp_path: Path) -> None:
    sizes = {"state_size": 4, "num_hidden_layers": 2}
    folder = make_base(tmp_path / "mamba", "mamba", **sizes)
    with pytest.raises(ModelError, match=r"mamba \(mamba\) stays causal although is_causal is off"):
        make(folder)


def test_bad_bases_and_settings_are_refused(base: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no config\.json or no safetensors"):
        make(tmp_path / "empty")
    with pytest.raises(ModelError, match="is a path, which would be recorded"):
        TextEncoderConfig(base_name="/models/llama")
    with pytest.raises(ModelError, match="choose one of mean, weighted_mean, last"):
        make(base, pooling="max")
    with pytest.raises(ModelError, match="choose one of nf4, none"):
        make(base, quantization="int8")
    with pytest.raises(ModelError, match="unknown fields"):
        TextEncoderConfig.of({"lora": 3})
    with pytest.raises(ModelError, match="without its output layer"):
        make(base).logits(torch.zeros(1, 64))
    assert "base" not in TextEncoderConfig(base=str(base), base_name="tiny").recorded()


@pytest.mark.slow
def test_the_packaged_model_looks_both_ways_in_4_bits() -> None:
    pytest.importorskip("gguf")
    from datamodules.reports.llm.models import SMALL, model_source

    source, local = model_source(SMALL)
    assert local
    config = TextEncoderConfig(base=source, base_name=SMALL, layers=2, quantization="nf4", max_length=64)
    encoder = TextEncoder(config, "cpu")
    check_both_ways_and_padding(encoder)
    assert encoder.feature_dim == 576
    assert encoder.base_fingerprint == TextEncoder(replace(config, quantization="none"), "cpu").base_fingerprint


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_merged_adapters_give_the_same_embedding_and_leave_nothing_behind(base: Path, quantization: str) -> None:
    encoder = make(base, quantization=quantization).eval()
    stir(encoder, 3)
    tokens = encoder.tokenize(TEXTS)
    before, print_before = {name: value.clone() for name, value in encoder.state_dict().items()}, encoder.fingerprint()
    with torch.no_grad():
        apart = encoder(**tokens)
        with merged(encoder):
            changed = [name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])]
            together = encoder(**tokens)
    assert bool(changed) is (quantization == "none")  # 4 bits would lose the adapters to rounding
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError, match="in the midst"), merged(encoder):
        raise RuntimeError("in the midst")
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert encoder.fingerprint() == print_before
    encoder.train()(**tokens).sum().backward()
    assert any(value.grad is not None and float(value.grad.abs().sum()) > 0 for value in encoder.parameters())
