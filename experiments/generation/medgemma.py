"""Reports by MedGemma (Sellergren et al., 2025; Google's Health AI Developer Foundations), from slices on this machine.

A CT slice is shown as MedGemma 1.5 was trained on them: three windows as red, green and blue, a number before each
slice. Any Gemma 3 model of images and text that save_pretrained wrote can stand in its folder.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from datamodules.errors import DataError
from experiments.encoders.published.weights import WEIGHTS_VARIABLE
from experiments.generation.journal import in_batches
from experiments.generation.slices import PromptPart, Viewing, question, read_prompt
from experiments.generation.systems import Options, WritingJob, arguments_of
from experiments.generation.trained import as_frame
from lightning_modules.core.errors import ModelError
from lightning_modules.networks.joint.decoding import Decoding, Written
from lightning_modules.networks.text.language_model import base_fingerprint, quiet, resolve_dtype

_DEFAULTS = {"slices": 8, "pixels": 896, "batch": 1}
_THOUGHT, _ANSWER = "<unused94>", "<unused95>"


def absent(name: str, options: Options) -> str:
    """What a user has to give before it can be loaded; empty where its weights are here."""
    folder = weights_folder(options)
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
        return ""
    return (
        f"SYSTEM={name} has no weights here; get google/medgemma-1.5-4b-it from the Hugging Face hub (licence: Health "
        f"AI Developer Foundations terms of use, to be accepted there) and put its files into the folder {folder.name} "
        f"of {folder.parent.name or '.'} or of the folder that {WEIGHTS_VARIABLE} names, or name another one: "
        f"ARGS=\"--arguments='{{{name}: FOLDER}}'\"."
    )


def weights_folder(options: Options) -> Path:
    """Where its weights are: the argument `medgemma`, else `<RENAL_WEIGHTS>/medgemma`."""
    named = options.arguments.get("medgemma")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get(WEIGHTS_VARIABLE) or "weights").expanduser() / "medgemma"


def identity(job: WritingJob) -> dict[str, Any]:
    """Its weights, the words and the slices."""
    prompt, viewing = read_prompt(), viewing_of(job)
    return {
        "weights_sha256": base_fingerprint(weights_folder(job.options)),
        "viewing": vars(viewing),
        "prompt": prompt.version,
        "prompt_sha256": prompt.sha256,
    }


def viewing_of(job: WritingJob) -> Viewing:
    """How kidneys are shown to it."""
    given = arguments_of(job.options, "medgemma", _DEFAULTS)
    return Viewing("medgemma", given["slices"], given["pixels"])


def write(job: WritingJob) -> pd.DataFrame:
    """Write the report of every kidney from its slices.

    A batch is of few kidneys, since each holds many slices: the argument `medgemma.batch`.

    Raises:
        DataError: if its weights are not here.
        ModelError: if they are damaged or of another kind.
    """
    missing = absent("medgemma", job.options)
    if missing:
        raise DataError(missing)
    model, viewing = load(weights_folder(job.options)), viewing_of(job)
    at_once = arguments_of(job.options, "medgemma", _DEFAULTS)["batch"]
    kidneys = job.kidneys[["row", "side"]].to_dict("records")

    def written(places: range) -> list[Written]:
        asked = [question(job, kidneys[place]["row"], kidneys[place]["side"], viewing).parts for place in places]
        return model.write(asked, job.options.decoding)

    return as_frame(in_batches(job, written, at_once))


@dataclass(frozen=True, eq=False)
class MedGemma:
    """A model of images and text that is ready to write.

    Args:
        model: In evaluation mode, on its device.
        processor: Its processor.
    """

    model: Any
    processor: Any

    @torch.inference_mode()
    def write(self, asked: Sequence[Sequence[PromptPart]], decoding: Decoding) -> list[Written]:
        """Answer questions of words and slices.

        Args:
            asked: Parts of each question, as `slices.question` gives them.
            decoding: Greedy, beam search or sampling.
        """
        from transformers import GenerationConfig

        inputs = self.processor.apply_chat_template(
            [self._turns(parts) for parts in asked],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        ).to(self.model.device, dtype=self.model.dtype)
        tokenizer, known = self.processor.tokenizer, self.model.generation_config
        ends = known.eos_token_id if known.eos_token_id is not None else tokenizer.eos_token_id
        sampling = {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
        settings = GenerationConfig(
            max_new_tokens=decoding.max_tokens,
            num_beams=decoding.beams,
            do_sample=decoding.temperature > 0,
            **(sampling if decoding.temperature else {}),
            repetition_penalty=decoding.repetition_penalty,
            no_repeat_ngram_size=decoding.no_repeat,
            eos_token_id=ends,
            pad_token_id=tokenizer.pad_token_id,
            return_dict_in_generate=True,
            output_logits=True,
        )
        found = self.model.generate(**inputs, generation_config=settings)
        beams = found.beam_indices if decoding.beams > 1 else None
        logprobs = self.model.compute_transition_scores(found.sequences, found.logits, beams, normalize_logits=True)
        start = found.sequences.shape[1] - logprobs.shape[1]
        stops = set(ends if isinstance(ends, list) else [ends])
        return [
            self._written(ids.tolist(), scores.tolist(), stops)
            for ids, scores in zip(found.sequences[:, start:], logprobs.float(), strict=True)
        ]

    def _turns(self, parts: Sequence[PromptPart]) -> list[dict[str, Any]]:
        content = [
            {"type": "text", "text": part.text} if part.image is None else {"type": "image", "image": part.image}
            for part in parts
        ]
        system = [{"type": "text", "text": read_prompt().system}]
        return [{"role": "system", "content": system}, {"role": "user", "content": content}]

    def _written(self, ids: list[int], logprobs: list[float], stops: set[int]) -> Written:
        end = next((place for place, token in enumerate(ids) if token in stops), None)
        length = len(ids) if end is None else end + 1
        text = self.processor.tokenizer.decode(ids[:length] if end is None else ids[:end], skip_special_tokens=True)
        return Written(
            report_in(text),
            [self.processor.tokenizer.decode([token]) for token in ids[:length]],
            logprobs[:length],
            end is None,
        )


def report_in(text: str) -> str:
    """The answer of a model that may think before it; empty where it thought until it was cut off."""
    if _ANSWER in text:
        text = text.split(_ANSWER, 1)[1]
    elif text.lstrip().startswith(_THOUGHT):
        text = ""
    return " ".join(text.split())


def load(folder: Path) -> MedGemma:
    """Load a model of images and text.

    Args:
        folder: Folder that save_pretrained wrote, with its processor.

    Raises:
        ModelError: if it cannot be loaded, or lacks weights.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = resolve_dtype("auto", device)
    if dtype == torch.float16:  # Gemma 3's activations do not fit into it
        dtype = torch.float32
    try:
        with quiet():
            processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True, padding_side="left")
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                folder,
                dtype=dtype,
                device_map={"": device},
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except (ValueError, OSError, KeyError, ImportError) as error:
        raise ModelError(
            f"The weights in {folder.name} could not be loaded as a model of images and text "
            f"({' '.join(str(error).split())[:160]})."
        ) from error
    model, found = loaded
    lacking = sorted([*found["missing_keys"], *(str(key) for key in found["mismatched_keys"])])
    if lacking:
        raise ModelError(f"The weights in {folder.name} lack {len(lacking)}, first {lacking[0]}; copy them again.")
    return MedGemma(model.eval(), processor)
