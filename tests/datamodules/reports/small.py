"""A small attribute schema and a tiny random language model, for tests."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from datamodules.reports.llm.models import LanguageModel, fingerprint
from datamodules.reports.schema import Attribute, AttributeClass, AttributeSchema, Measure


def _attribute(name: str, level: str, *classes: str, measure: Measure | None = None) -> Attribute:
    values = tuple(AttributeClass(value, f"the {name} is {value}") for value in classes)
    return Attribute(name, level, f"What is the {name}?", name, f"{name} is not named", values, measure=measure)  # type: ignore[arg-type]


SCHEMA = AttributeSchema(
    3,
    (
        _attribute("lesion_present", "kidney", "yes", "no"),
        _attribute("stones", "kidney", "yes", "no"),
        _attribute("pole", "lesion", "upper", "interpolar", "lower"),
        _attribute(
            "size_class",
            "lesion",
            "to_4_cm",
            "4_to_7_cm",
            "from_7_cm",
            measure=Measure("diameter_mm", (40.0, 70.0), ("to_4_cm", "4_to_7_cm", "from_7_cm")),
        ),
    ),
)
REPORTS = (
    "Findings: A solid mass of 3.4 x 2.1 cm in the upper pole of the left kidney. The right kidney is normal.",
    "No stones. Possibly a small cyst at the lower pole of the right kidney.\nImpression: cyst.",
    "Both kidneys are normal.",
)


def random_model(seed: int = 0) -> LanguageModel:
    """A Llama of two layers with random weights and a byte-level tokenizer trained on a few lines."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=["<end>"])
    tokenizer.train_from_iterator([*REPORTS, '{"value": "not stated"}'], trainer)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.4,
    )
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    return LanguageModel("random", model, wrapped, fingerprint(model, wrapped))


def save(model: LanguageModel, folder: Path) -> Path:
    """Write a model as `save_pretrained` does."""
    model.model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder
