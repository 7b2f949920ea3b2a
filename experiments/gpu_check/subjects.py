"""Every stage as a module and a batch of synthetic kidneys, small enough for a few steps anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_modules.core.optimization import OptimizerConfig
from lightning_modules.core.suite_module import SuiteModule
from lightning_modules.downstream.classification import Classification
from lightning_modules.downstream.survival import Survival
from lightning_modules.losses.cox import RiskMemory
from lightning_modules.networks.image.encoders import EncoderConfig
from lightning_modules.networks.joint.report_writer import WriterConfig
from lightning_modules.networks.text.encoder import TextEncoderConfig
from lightning_modules.networks.text.language_model import quiet
from lightning_modules.networks.text.tokens import predicting
from lightning_modules.pretrain.alignment import ClipAlignment
from lightning_modules.pretrain.attributes import AttributePretraining
from lightning_modules.pretrain.reports import ReportGeneration
from lightning_modules.pretrain.text_adaptation import MaskedNextToken, UnsupervisedSimcse
from lightning_modules.pretrain.text_contrast import AttributeContrast

WORDS = [
    "a",
    "the",
    "no",
    "of",
    "in",
    "on",
    "and",
    "is",
    "cm",
    "left",
    "right",
    "kidney",
    "mass",
    "solid",
    "cystic",
    "normal",
    "upper",
    "lower",
    "pole",
    "cyst",
    "stone",
    "thrombus",
    "vein",
    "enhancing",
    "smooth",
    "margin",
    "3",
    "5",
    "8",
    ".",
]
COUNTS = {"lesion_present": {"no": 20, "yes": 30}, "pole": {"upper": 5, "interpolar": 9, "lower": 3}}
_TOKENS = 24


@dataclass(frozen=True)
class Sizes:
    """How large the synthetic batches are.

    Args:
        crop: Voxels of an image, D x H x W.
        rows: Kidneys, or texts, of a step.
        width: Channels of the first stage of the networks.
    """

    crop: tuple[int, int, int] = (16, 24, 24)
    rows: int = 6
    width: int = 8


@dataclass(frozen=True)
class Subject:
    """A stage on a device.

    Args:
        module: What is trained.
        batch: What a step takes.
    """

    module: SuiteModule
    batch: dict[str, Any]

    def loss(self, number: int = 0) -> torch.Tensor:
        """Loss of a training step."""
        found = self.module.training_step(self.batch, number)
        assert isinstance(found, torch.Tensor)
        return found


Maker = Callable[[torch.device, Sizes, Path], Subject]


def random_base(folder: Path, **sizes: int) -> Path:
    """A Llama of random weights with a tokenizer of a few words, as a folder that stages load their base from.

    Args:
        folder: Where it is written.
        sizes: Fields of the model's configuration.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(("<unk>", "<s>", "</s>", *WORDS))}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    settings: dict[str, Any] = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": len(words), "pad_token_id": 2, **sizes,
    }  # fmt: skip
    config = LlamaConfig(**settings)
    kind = torch.get_default_dtype()
    torch.manual_seed(0)
    try:
        torch.set_default_dtype(torch.bfloat16 if config.hidden_size > 1024 else torch.float32)
        with quiet():
            LlamaForCausalLM(config).save_pretrained(folder)
    finally:
        torch.set_default_dtype(kind)
    return folder


def text_config(base: Path, **options: Any) -> TextEncoderConfig:
    """How a text encoder over a base is adapted here: without what is drawn at random."""
    settings = {"base_name": "random", "quantization": "none", "lora_rank": 4, "lora_dropout": 0.0, "max_length": 64}
    return TextEncoderConfig(base=str(base), **{**settings, **options})


def without_dropout(module: nn.Module) -> None:
    """Take dropout out of a module: devices draw it differently."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0


def _image(sizes: Sizes, channels: int = 1) -> torch.Tensor:
    return torch.rand(sizes.rows, channels, *sizes.crop, generator=torch.Generator().manual_seed(1))


def _rows(sizes: Sizes) -> dict[str, Any]:
    number = torch.arange(sizes.rows)
    attributes = torch.stack([number % 2, number % 3], dim=1)
    return {
        "phase": number % 4, "patient": number, "kidney": number, "sample": number, "report_id": number,
        "attributes": attributes, "target": number % 2,
    }  # fmt: skip


def _finished(module: SuiteModule, batch: Mapping[str, Any], device: torch.device) -> Subject:
    """Module and batch on the device; there is no Trainer, and nothing is logged."""
    without_dropout(module)
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    moved = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    return Subject(module.to(device).train(), moved)


def region_config(sizes: Sizes, **options: Any) -> EncoderConfig:
    """The encoder of stage 1, without what is drawn at random."""
    settings = {"region_width": 2 * sizes.width, "patch": (2, 2, 2), "phase_dropout": 0.0}
    return EncoderConfig(network="regions", **{**settings, **options})


def resnet_config(sizes: Sizes, **options: Any) -> EncoderConfig:
    """A residual network whose samples do not depend on their batch."""
    return EncoderConfig(**{"width": sizes.width, "depth": 10, "norm": "group", "stem_pool": False, **options})


def image_stage(device: torch.device, sizes: Sizes, base: Path, encoder: EncoderConfig | None = None) -> Subject:
    """Stage 1: attributes and anatomy."""
    torch.manual_seed(0)
    module = AttributePretraining(
        encoder or region_config(sizes), COUNTS, {}, OptimizerConfig(), anatomy_weight=1.0, dropout=0.0
    )
    shares = torch.randn(sizes.rows, 5, *sizes.crop, generator=torch.Generator().manual_seed(2)).mul(3).softmax(dim=1)
    known = torch.arange(sizes.rows) % 3 > 0
    anatomy = {"anatomy": shares, "mask_known": known, "sinus_known": known}
    return _finished(module, {**_rows(sizes), **anatomy, "image": _image(sizes, 4)}, device)


def classification(device: torch.device, sizes: Sizes, base: Path, encoder: EncoderConfig | None = None) -> Subject:
    """A downstream task of classes."""
    torch.manual_seed(0)
    config = encoder or resnet_config(sizes)
    module = Classification(
        encoder=config, class_counts=[60, 40], contract={}, optimizer=OptimizerConfig(), dropout=0.0
    )
    return _finished(module, {**_rows(sizes), "image": _image(sizes)}, device)


def survival(device: torch.device, sizes: Sizes, base: Path) -> Subject:
    """A downstream task of times, by Cox's partial likelihood with the memory of all patients."""
    torch.manual_seed(0)
    outcome = {"endpoint": "rfs", "cuts": [0.0, 12.0, 24.0]}
    module = Survival(
        encoder=resnet_config(sizes), outcome=outcome, contract={}, optimizer=OptimizerConfig(), dropout=0.0
    )
    months = torch.arange(sizes.rows).float()[:, None].repeat(1, 3) + 1
    event = torch.arange(sizes.rows)[:, None].repeat(1, 3) % 3 < 2
    module.memory = RiskMemory(months[:, 0].to(device), event[:, 0].to(device))
    known = torch.ones(sizes.rows, 3, dtype=torch.bool)
    times = {"time_months": months, "event": event, "known": known}
    return _finished(module, {**_rows(sizes), **times, "image": _image(sizes)}, device)


def alignment(device: torch.device, sizes: Sizes, base: Path, micro_batch: int | None = None) -> Subject:
    """Stage 3: images and texts in one space."""
    torch.manual_seed(0)
    module = ClipAlignment(
        resnet_config(sizes), 16, "random", COUNTS, {}, OptimizerConfig(), embed_dim=16, micro_batch=micro_batch
    )
    text = torch.randn(sizes.rows, 16, generator=torch.Generator().manual_seed(3))
    return _finished(module, {**_rows(sizes), "text": text, "image": _image(sizes)}, device)


def _tokens(rows: int) -> dict[str, Any]:
    ids = torch.randint(3, 3 + len(WORDS), (rows, _TOKENS), generator=torch.Generator().manual_seed(4))
    lengths = [_TOKENS - row % 5 for row in range(rows)]
    mask = (torch.arange(_TOKENS) < torch.tensor(lengths)[:, None]).long()
    labels = ids.masked_fill((torch.arange(_TOKENS) % 5 != 2) | (mask == 0), -100)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels, "places": predicting(labels)}
    return {**batch, "lengths": lengths, "sample": torch.arange(rows)}


def _text(kind: Callable[..., Any], batch: dict[str, Any], device: torch.device, base: Path, **options: Any) -> Subject:
    torch.manual_seed(0)
    module = kind(text_config(base), {}, OptimizerConfig(), **options)
    module.build(device)
    return _finished(module, batch, device)


def masked_tokens(device: torch.device, sizes: Sizes, base: Path) -> Subject:
    """Stage 2, first."""
    return _text(MaskedNextToken, _tokens(sizes.rows), device, base)


def simcse(device: torch.device, sizes: Sizes, base: Path) -> Subject:
    """Stage 2, second."""
    return _text(UnsupervisedSimcse, _tokens(2 * sizes.rows), device, base)


def attribute_contrast(device: torch.device, sizes: Sizes, base: Path) -> Subject:
    """Stage 2, third."""
    number = torch.arange(sizes.rows)
    facts = torch.stack([number % 2, number % 2, number % 3], dim=1)
    batch = {**_tokens(3 * sizes.rows), "sample": number, "attributes": facts, "negative_of": number}
    return _text(AttributeContrast, batch, device, base, class_counts=COUNTS)


def report_writer(device: torch.device, sizes: Sizes, base: Path) -> Subject:
    """Report generation: the projector of image tokens."""
    torch.manual_seed(0)
    module = ReportGeneration(
        resnet_config(sizes), text_config(base), {}, OptimizerConfig(), writer=WriterConfig("pooled", 3)
    )
    module.build(device)
    reports = [f"a solid mass of {['3', '5', '8'][row % 3]} cm in the left kidney ." for row in range(sizes.rows)]
    batch = {**_rows(sizes), "image": _image(sizes), "report": reports, "prompt": ["the kidney"] * sizes.rows}
    return _finished(module, batch, device)


STAGES: dict[str, Maker] = {
    "image": image_stage,
    "text, masked tokens": masked_tokens,
    "text, SimCSE": simcse,
    "text, attribute contrast": attribute_contrast,
    "alignment": alignment,
    "report writer": report_writer,
    "classification": classification,
    "survival": survival,
}
"""What makes each stage."""
