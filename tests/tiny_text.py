"""Random causal language models of any family and a tokenizer of few words, small enough for every test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

_VOCABULARY = """
    a the no of in on and is cm left right kidney mass solid cystic normal upper lower pole cyst stone thrombus vein
    enhancing smooth margin 3 5 8 . , : _ There It Left Right No Normal without lesion focal is not described .
"""
TEXTS = [
    "There is a solid mass of 3 cm in the upper pole of the left kidney . No thrombus .",
    "Normal right kidney .",
    "A cystic lesion of 8 cm in the lower pole . The margin is smooth . No stone .",
    "No focal lesion in the left kidney",
]
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
}
FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3_text")


def make_base(folder: Path, family: str = "llama", seed: int = 0, **changed: Any) -> Path:
    """A base as save_pretrained writes it, with a tokenizer that puts `<s>` before every text."""
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>"]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys([*special, *_VOCABULARY.split()]))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    words = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token=None
    )
    words.save_pretrained(folder)
    torch.manual_seed(seed)
    marks = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    config = AutoConfig.for_model(family, **{**SIZES, "vocab_size": len(vocabulary), **marks, **changed})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():  # far from the usual start, so that attention is not nearly even
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.15)
    model.save_pretrained(folder)
    return folder


def stir(module: torch.nn.Module, seed: int = 1) -> None:
    """Give adapters values that change something; fresh ones change nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
