"""Releases with both sides in miniature: random weights by the published names, and folders as the bases have them."""

from __future__ import annotations

import json
import string
from pathlib import Path

import torch
from torch import nn
from transformers import BertConfig, BertModel, LongformerConfig, LongformerModel, PreTrainedModel
from transformers.convert_slow_tokenizer import bytes_to_unicode

from lightning_modules.networks.image.published.build import build_published
from tests.lightning_modules.networks.image.published.test_checkpoint import published_name

LETTERS = string.ascii_lowercase + string.digits + string.punctuation
SIZES = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
LOG_SCALE = 4.0
SCALE = {"ct_clip": "temperature", "merlin": "logit_scale"}
_TOWER = {"ct_clip": "text_transformer.", "merlin": "encode_text.text_encoder."}
_HEAD = {"ct_clip": "to_text_latent.", "merlin": "encode_text.linear_layer."}


def text_folder(name: str, folder: Path) -> Path:
    """Configuration and tokenizer, with what the base's own files say that is of no use here."""
    folder.mkdir(parents=True, exist_ok=True)
    if name == "ct_clip":
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "renal", "mass", "is", "present", "cyst"]
        words += [*LETTERS, *(f"##{letter}" for letter in LETTERS)]
        (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(words)) + "\n")
        own = {"model_type": "cxr-bert", "max_position_embeddings": 512, "vocab_size": 30, "projection_size": 128}
        code = {"AutoTokenizer": ["configuration_cxrbert.CXRBertTokenizer", None]}
        tokens = {"do_lower_case": True, "tokenizer_class": "CXRBertTokenizer", "auto_map": code}
    else:
        vocabulary = ["<s>", "<pad>", "</s>", "<unk>", *bytes_to_unicode().values(), "<mask>"]
        (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(vocabulary)}))
        (folder / "merges.txt").write_text("#version: 0.2\n")
        own = {"model_type": "longformer", "max_position_embeddings": 1026, "vocab_size": len(vocabulary)}
        own |= {"attention_window": [8, 8], "pad_token_id": 1, "sep_token_id": 2, "type_vocab_size": 1}
        tokens = {"model_max_length": 4096}
    (folder / "config.json").write_text(json.dumps(SIZES | own))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens))
    return folder


def tower(name: str, tokens: int) -> PreTrainedModel:
    """The language model as the release makes it, with random weights that tell texts apart."""
    torch.manual_seed(5)
    if name == "ct_clip":
        config = BertConfig(**SIZES, vocab_size=tokens, max_position_embeddings=512, initializer_range=0.5)
        return BertModel(config).eval()
    config = LongformerConfig(
        **SIZES,
        vocab_size=tokens,
        max_position_embeddings=1026,
        attention_window=[8, 8],
        pad_token_id=1,
        sep_token_id=2,
        type_vocab_size=1,
        initializer_range=0.5,
    )
    return LongformerModel(config).eval()


def release(name: str, text: PreTrainedModel) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The image encoder of a release and the state of the whole release by its published names."""
    torch.manual_seed(7)
    image = build_published(name, small=True).eval()
    state = {published_name(name, key): value.clone() for key, value in image.state_dict().items()}
    if name == "ct_clip":
        state["visual_transformer.vq._codebook.embed"] = state["visual_transformer.vq._codebook.embed"][None]
        state["to_text_latent_extra.weight"] = torch.zeros(3)
    shared = 16 if name == "ct_clip" else 512
    state |= {_TOWER[name] + key: value.clone() for key, value in text.state_dict().items()}
    state[f"{_TOWER[name]}embeddings.position_ids"] = torch.arange(8)[None]  # older transformers kept them
    state[f"{_HEAD[name]}weight"] = torch.randn(shared, 8)
    state[SCALE[name]] = torch.tensor(LOG_SCALE)
    if name == "merlin":
        state |= {
            f"{_HEAD[name]}bias": 0.1 * torch.randn(shared),
            "encode_image.i3_resnet.classifier.bias": torch.zeros(3),
        }
        head, weight = "encode_image.i3_resnet.contrastive_head.", torch.randn(shared, image.feature_dim)
        state[f"{head}weight"] = weight[..., None, None, None]  # a 1 x 1 x 1 convolution
        with torch.no_grad():  # without what all images share, so that the little that tells them apart counts
            state[f"{head}bias"] = -weight @ image(torch.full((1, 1, 8, 12, 12), 0.5))[0]
    return image, state
