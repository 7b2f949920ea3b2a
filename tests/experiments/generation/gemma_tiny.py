"""A random Gemma 3 of images and text, as save_pretrained writes MedGemma, small enough for tests."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

_WORDS = """
    a the no of in on and is cm left right kidney mass solid cystic normal upper lower pole cyst stone arterial Arterial
    Venous phase slices box from top bottom SLICE 1 2 3 4 5 Write findings . , : around axial These There It No
"""
_MARKS = ["<start_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"]
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<start_of_image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}</s>"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>{% endif %}"
)
SIDE = 28
"""Pixels of a side of its input."""


def make_medgemma(folder: Path, seed: int = 0) -> Path:
    """Weights, tokenizer, image processor and chat template in a folder."""
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3ImageProcessorPil,
        Gemma3Processor,
        PreTrainedTokenizerFast,
    )

    special = ["<pad>", "<unk>", "<s>", "</s>"]
    names = list(dict.fromkeys([*special, *_MARKS, *_WORDS.split()]))
    words = Tokenizer(WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    words.add_special_tokens([AddedToken(name, special=True) for name in (*special, *_MARKS)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
    )
    images = Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    Gemma3Processor(images, tokenizer, chat_template=_TEMPLATE, image_seq_length=4).save_pretrained(folder)
    config = Gemma3Config(
        text_config={
            "vocab_size": len(names), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 1024,
            "query_pre_attn_scalar": 16, "sliding_window": 512, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
        },
        vision_config={
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": SIDE, "patch_size": 7, "vision_use_head": False,
        },
        mm_tokens_per_image=4,
        boi_token_index=names.index("<start_of_image>"),
        eoi_token_index=names.index("<end_of_image>"),
        image_token_index=names.index("<image_soft_token>"),
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Gemma3ForConditionalGeneration(config)
    with torch.no_grad():  # far from the usual start, so that neither words nor images are nearly alike
        for name, weight in model.named_parameters():
            if weight.ndim > 1:  # a token's own vector must not speak louder than what the layers made of it
                weight.normal_(0, 0.02 if "embed_tokens" in name else 0.3)
    model.save_pretrained(folder)
    return folder
