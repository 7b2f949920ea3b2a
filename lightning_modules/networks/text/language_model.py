"""The base of a text encoder: a causal language model made bidirectional, in 4 bits where asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from lightning_modules.core.errors import ModelError
from lightning_modules.core.precision import has_native_bf16

Quantization = Literal["nf4", "none"]
ComputeDtype = Literal["auto", "float32", "bfloat16", "float16"]
_SAMPLED_ROWS = 8


def resolve_dtype(name: ComputeDtype, device: torch.device) -> torch.dtype:
    """Precision of the base: bfloat16 on a GPU that has it natively, float16 on an older one, float32 on a CPU.

    A CPU without bf16 units takes 14 times as long with a bfloat16 nf4 base as with a float32 one.
    """
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if has_native_bf16() else torch.float16


def base_folder(base: str) -> Path:
    """The folder of a base; a hub id is downloaded once, its safetensors and tokenizer only.

    Raises:
        ModelError: if there is neither such a folder nor such a model.
    """
    folder = Path(base).expanduser()
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(base, allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.model"]))
        except (OSError, ValueError) as error:
            raise ModelError(
                f"The base {Path(base).name} is no folder and could not be fetched from the hub "
                f"({type(error).__name__}); name the folder of a model that save_pretrained wrote."
            ) from error
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise ModelError(
            f"The base {folder.name} has no config.json or no safetensors weights; expected a causal language model "
            "that save_pretrained wrote, with its tokenizer."
        )
    return folder


def base_fingerprint(folder: Path) -> str:
    """Sixteen hexadecimal digits of a base: its configuration's sizes, its tokenizer and a sample of every weight.

    Eight whole rows of every weight are read from the files, as bfloat16, so that the value depends neither on device,
    quantisation nor precision; a fine-tuned or merged base changes nearly all of them. Files that hold other weights
    beside those of the model (an optimiser) change it, too.

    Raises:
        ModelError: if a file is damaged.
    """
    digest = hashlib.sha256((folder / "tokenizer.json").read_bytes() if (folder / "tokenizer.json").is_file() else b"")
    places: dict[str, Path] = {}
    try:
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                places |= dict.fromkeys(file.keys(), path)
        for path in sorted(set(places.values())):
            with safe_open(path, framework="pt") as file:
                for name in sorted(name for name, place in places.items() if place == path):
                    weight = file.get_slice(name)
                    shape = weight.get_shape()
                    digest.update(f"{name}{shape}".encode())
                    if not shape or 0 in shape:
                        continue
                    step = max(1, shape[0] // _SAMPLED_ROWS)
                    for row in range(0, shape[0], step) if len(shape) > 1 else (slice(None),):
                        sample = weight[row : row + 1] if isinstance(row, int) else weight[row]
                        digest.update(sample.to(torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"The weights of the base {folder.name} are damaged ({error}); copy it again.") from error
    return digest.hexdigest()[:16]


def load_base(
    folder: Path,
    *,
    layers: int | None,
    quantization: Quantization,
    dtype: torch.dtype,
    bidirectional: bool,
    attention_dropout: float,
    device: torch.device,
) -> Any:
    """A transformers causal language model, frozen, on its device.

    Attention becomes bidirectional by the configuration's own switch `is_causal`, which must be set before loading;
    that it works for this family is proved by a forward pass.

    Args:
        folder: Folder of the base.
        layers: First layers to keep; all when None.
        quantization: `nf4` quantises the linear layers of the blocks to 4-bit NormalFloat with double quantisation
            (Dettmers et al., NeurIPS 2023).
        dtype: Precision of the other weights and of the computation.
        bidirectional: Whether every token sees every other one.
        attention_dropout: Dropout of attention weights while training.
        device: Where it goes; 4-bit weights are packed there.

    Raises:
        ModelError: if the model is no causal language model, has fewer layers, or stays causal.
    """
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = _read_config(folder)
    _cut(config, layers, folder.name)
    if bidirectional:
        config.is_causal = False
    if hasattr(config, "attention_dropout"):
        config.attention_dropout = attention_dropout
    elif attention_dropout:
        raise ModelError(f"The base {folder.name} ({config.model_type}) has no attention dropout; leave it at 0.")
    config.use_cache = False
    options: dict[str, Any] = {}
    if quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    try:
        with quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                device_map={"": device},
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
    except (ValueError, OSError, KeyError, ImportError) as error:
        raise ModelError(
            f"The base {folder.name} could not be loaded as a causal language model "
            f"({' '.join(str(error).split())[:160]})."
        ) from error
    model, found = loaded
    absent = sorted([*found["missing_keys"], *found["mismatched_keys"]])
    if absent:  # transformers would start them at random
        raise ModelError(
            f"The base {folder.name} lacks {len(absent)} weights of a {config.model_type} language model, first "
            f"{absent[0]}; copy it again, or name the text model on its own where it is part of a larger one."
        )
    model = model.eval().requires_grad_(False)
    _keep_differentiable(model)
    if bidirectional:
        _prove_bidirectional(model, folder.name, device)
    return model


def base_layers(folder: Path) -> int:
    """Number of layers of a whole base.

    Raises:
        ModelError: if its configuration cannot be read.
    """
    return int(_read_config(folder).num_hidden_layers)


def _read_config(folder: Path) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder).get_text_config()
    except (ValueError, OSError, KeyError) as error:
        raise ModelError(f"The base {folder.name} could not be read ({' '.join(str(error).split())[:160]}).") from error


def _cut(config: Any, layers: int | None, name: str) -> None:
    if layers is None:
        return
    if not 1 <= layers <= config.num_hidden_layers:
        raise ModelError(f"layers={layers} was asked for; {name} has {config.num_hidden_layers}, expected 1 to that.")
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = list(config.layer_types)[:layers]


def _keep_differentiable(model: nn.Module) -> None:
    """Keep bitsandbytes from packing 4-bit weights for its inference kernel.

    On a CPU with bfloat16 units it does so, for good, at the first evaluation without gradient (0.50.2). Nothing flows
    back through that kernel: training afterwards takes half the time and follows a gradient that lacks the base's part.
    """
    modules: Iterator[Any] = model.modules()
    for module in modules:
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


@torch.no_grad()
def _prove_bidirectional(model: nn.Module, name: str, device: torch.device) -> None:
    """Refuse a family whose first token does not change with the last one."""
    ids = torch.arange(4, 8, device=device)[None]
    other = ids.clone()
    other[0, -1] = 9
    base: Any = model.base_model
    first, second = (base(input_ids=x, attention_mask=torch.ones_like(x)).last_hidden_state[0, 0] for x in (ids, other))
    if torch.equal(first, second):
        kind = model.config.model_type  # type: ignore[union-attr]
        raise ModelError(
            f"The base {name} ({kind}) stays causal although is_causal is off: its first token does not see the last "
            "one; choose another family (Llama, Qwen, Mistral and Gemma work) or set text.bidirectional to false."
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Load without transformers' progress bars and warnings."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
