"""The text sides of published models, in a tiny random configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertTokenizer, LongformerConfig, PretrainedConfig

from lightning_modules.errors import ModelError
from lightning_modules.networks.published.checkpoint import load_published
from lightning_modules.networks.published.text import TEXTS, PublishedText, build_text

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "renal", "mass", "is", "present", "not", "cyst"]
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
CONFIGS: dict[str, PretrainedConfig] = {
    "ct_clip": BertConfig(**SIZES, vocab_size=len(WORDS), max_position_embeddings=64),
    "merlin": LongformerConfig(
        **SIZES, vocab_size=len(WORDS), max_position_embeddings=64, attention_window=[8], pad_token_id=0
    ),
}


def built(name: str, folder: Path) -> PublishedText:
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    BertTokenizer(str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    CONFIGS[name].save_pretrained(folder)
    torch.manual_seed(3)
    return build_text(name, folder)


@pytest.mark.parametrize("name", list(TEXTS))
def test_a_text_is_a_unit_vector_whatever_stands_beside_it(name: str, tmp_path: Path) -> None:
    text = built(name, tmp_path)
    long = "a renal mass is present , not a cyst . " * 2
    both = text.embed_texts(["renal cyst", long])
    assert both.shape == (2, 512)
    torch.testing.assert_close(both.norm(dim=-1), torch.ones(2))
    torch.testing.assert_close(both[:1], text.embed_texts(["renal cyst"]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both, text.embed_texts(["renal cyst", long], batch_size=1), rtol=1e-4, atol=1e-5)
    assert text.embed_texts([]).shape == (0, 512)


@pytest.mark.parametrize("name", list(TEXTS))
def test_published_weights_fill_tower_and_heads(name: str, tmp_path: Path) -> None:
    theirs = built(name, tmp_path)
    names = {
        "ct_clip": {"tower.": "text_transformer.", "text_projection.": "to_text_latent."},
        "merlin": {
            "tower.": "encode_text.text_encoder.",
            "text_projection.": "encode_text.linear_layer.",
            "image_projection.": "encode_image.i3_resnet.contrastive_head.",
        },
    }[name]
    state = {}
    for key, value in theirs.state_dict().items():
        ours, published = next(pair for pair in names.items() if key.startswith(pair[0]))
        state[published + key[len(ours) :]] = value.clone()
    beside = {"ct_clip": "visual_transformer.to_patch_emb.1.weight", "merlin": "encode_image.i3_resnet.conv1.weight"}[
        name
    ]
    if name == "merlin":  # a 1 x 1 x 1 convolution in the release
        head = "encode_image.i3_resnet.contrastive_head.weight"
        state[head] = state[head][..., None, None, None]
    torch.save(state | {beside: torch.zeros(1)}, tmp_path / "weights.pt")
    torch.manual_seed(4)
    ours = build_text(name, tmp_path)
    report = load_published(ours, tmp_path / "weights.pt", TEXTS[name].layout)
    assert report.ignored == (beside,)
    torch.testing.assert_close(ours.embed_texts(["renal mass"]), theirs.embed_texts(["renal mass"]))
    features = torch.rand(2, 2048 if name == "merlin" else 512)
    torch.testing.assert_close(ours.project(features), theirs.project(features))
    torch.testing.assert_close(ours.project(features).norm(dim=-1), torch.ones(2))


def test_merlin_reads_words_and_punctuation_apart() -> None:
    assert TEXTS["merlin"].prepared("Cyst(s), 2.5-cm;  NO mass.") == "cyst ( s ), 2 . 5 - cm ; no mass ."
    assert TEXTS["ct_clip"].prepared("Renal mass is present.") == "Renal mass is present."


def test_bad_folders_and_models_without_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config.json; expected configuration and tokenizer of microsoft/Biomed"):
        build_text("ct_clip", tmp_path)
    with pytest.raises(ModelError, match="ct_fm has no text side; zero-shot scoring works with ct_clip, merlin"):
        build_text("ct_fm", tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"cannot be read \(\w+: .*\); expected those of yikuan8/Clinical-Longformer"):
        build_text("merlin", tmp_path)
