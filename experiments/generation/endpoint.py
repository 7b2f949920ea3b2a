"""Reports by models behind OpenAI's chat interface: GPT-4o, and whatever vLLM, llama.cpp or code of one's own serves.

CT-CHAT and RadFM are here and not loaded in this process: their published code pins versions of transformers, and forks
of model code, that do not go together with this suite's, and their licences keep them out of it. Whoever compares with
them runs their code behind a small server of this interface, which stacks the slices of a phase to the volume that the
model wants. CT-CHAT was made for chests, which its figures on kidneys must be read with.

Images leave the machine only with `--send_images=true`; a server on it needs no flag, and whether that server passes
them on is for the user to know. What is sent of a kidney is in `slices.question`: slices of its
box, its side and the phases in words.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from datamodules.errors import DataError
from experiments.generation.chat_server import Pace, Server
from experiments.generation.questions import ServerTerms, ask_all
from experiments.generation.slices import PromptPart, Viewing, png, question, read_prompt
from experiments.generation.spending import Prices
from experiments.generation.systems import Options, WritingJob, arguments_of
from lightning_modules.networks.joint.decoding import Decoding


@dataclass(frozen=True)
class Preset:
    """What is usual for one system; everything but the variables may be given as an argument.

    Args:
        url: Environment variable with the address.
        key: Environment variable with the key; a server of one's own may need none.
        default_url: Address where that variable is not set; empty where a user must give one.
        needs_key: Whether nothing works without a key.
        model: Model that is asked for; empty where a user must name it.
        windows: Windows of the slices.
        slices: Slices of each phase.
    """

    url: str
    key: str
    default_url: str = ""
    needs_key: bool = False
    model: str = ""
    windows: str = "soft_tissue"
    slices: int = 8


PRESETS = {
    "gpt4o": Preset("OPENAI_BASE_URL", "OPENAI_API_KEY", "https://api.openai.com/v1", True, "gpt-4o-2024-11-20"),
    "endpoint": Preset("RENAL_ENDPOINT_URL", "RENAL_ENDPOINT_KEY"),
    "ct_chat": Preset("RENAL_CT_CHAT_URL", "RENAL_CT_CHAT_KEY", model="ct-chat", windows="wide", slices=40),
    "radfm": Preset("RENAL_RADFM_URL", "RENAL_RADFM_KEY", model="radfm", slices=32),
}


@dataclass(frozen=True)
class Endpoint:
    """A system as a user asked for it.

    Args:
        model: Model that is asked for.
        viewing: How kidneys are shown.
        terms: How fast and patiently is asked, and what it costs.
    """

    model: str
    viewing: Viewing
    terms: ServerTerms


def endpoint_of(options: Options, name: str) -> Endpoint:
    """The system with a user's arguments: model, windows, slices, pixels, concurrency, per_minute, attempts, wait_s,
    timeout_s, give_up, allowed_failures, and price_in and price_out, of a million tokens.

    Raises:
        DataError: if an argument is unknown or out of range, or the decoding is not one of the interface.
    """
    preset, pace = PRESETS[name], Pace()
    defaults = {
        "model": preset.model,
        "windows": preset.windows,
        "slices": preset.slices,
        "pixels": 448,
        **vars(pace),
        "give_up": 5,
        "allowed_failures": 0,
        "price_in": 0.0,
        "price_out": 0.0,
    }
    given = arguments_of(options, name, defaults)
    if options.decoding.beams > 1 or options.decoding.repetition_penalty != 1:
        raise DataError(f"System {name} knows neither beams nor a repetition penalty; leave both at 1.")
    return Endpoint(
        given["model"],
        Viewing(given["windows"], given["slices"], given["pixels"]),
        ServerTerms(
            Pace(**{field: given[field] for field in vars(pace)}),
            Prices(given["price_in"], given["price_out"]),
            given["give_up"],
            given["allowed_failures"],
        ),
    )


def server_of(name: str) -> Server:
    """Where a system's questions go, from the environment.

    Raises:
        DataError: if the address is none.
    """
    preset = PRESETS[name]
    # A line break at the end is what `$(cat key)` of a Windows file leaves.
    url, key = (os.environ.get(variable, "").strip() for variable in (preset.url, preset.key))
    return Server(url or preset.default_url, key, preset.url)


def absent(name: str, options: Options) -> str:
    """What a user has to give before the system can be asked; empty where nothing is missing."""
    preset = PRESETS[name]
    if not preset.default_url and not os.environ.get(preset.url, "").strip():
        return (
            f"SYSTEM={name} has no server: set {preset.url} to the address of one that speaks OpenAI's chat interface, "
            f"for example http://localhost:8000/v1, and {preset.key} if it wants a key."
        )
    if preset.needs_key and not os.environ.get(preset.key, "").strip():
        return f"SYSTEM={name} has no key: set {preset.key}."
    if not endpoint_of(options, name).model:
        return (
            f"SYSTEM={name} does not say which model of its server is asked: add "
            f"ARGS=\"--arguments='{{{name}.model: NAME}}'\"."
        )
    server_of(name)
    return ""


def outgoing(job: WritingJob, name: str) -> str:
    """What would leave this machine, and where to; empty where the server is on it."""
    server = server_of(name)
    if server.local:
        return ""
    viewing, phases = endpoint_of(job.options, name).viewing, job.module.plan.volumes.index["phase"].to_numpy()
    seen = sum(len(set(phases[job.positions(int(row))])) for row in job.kidneys["row"])
    safe = "" if server.url.startswith("https:") else ", unencrypted"
    return (
        f"images of {len(job.kidneys)} kidneys of {job.kidneys['patient_id'].nunique()} patients to {server.host}"
        f"{safe}: up to {viewing.slices} axial slices of the kidney's box in each of {seen} phases as pictures, side "
        "and phases in words, and no id of a patient, centre, date or path"
    )


def identity(job: WritingJob) -> dict[str, Any]:
    """Everything but address and key that answers depend on."""
    endpoint, prompt = endpoint_of(job.options, job.system), read_prompt()
    return {
        "model": endpoint.model,
        "viewing": vars(endpoint.viewing),
        "prompt": prompt.version,
        "prompt_sha256": prompt.sha256,
    }


def write(job: WritingJob) -> pd.DataFrame:
    """Ask for the report of every kidney; answers of earlier runs are kept and not asked for again.

    Raises:
        DataError: if some have none in the end, after all that could be had was kept.
    """
    endpoint = endpoint_of(job.options, job.system)
    found = ask_all(job, server_of(job.system), endpoint.terms, lambda place: asked_of(job, place, endpoint))
    return pd.DataFrame(
        {
            "text": [line["text"] for line in found],
            "tokens": [line["tokens"] or None for line in found],
            "truncated": [line["truncated"] for line in found],
        }
    )


def asked_of(job: WritingJob, place: int, endpoint: Endpoint) -> tuple[str, dict[str, Any]]:
    """The request for one kidney, and its hash.

    Args:
        job: The kidneys.
        place: Place of the kidney among them.
        endpoint: Model and viewing.
    """
    row = job.kidneys.iloc[place]
    words, seen = question(job, int(row["row"]), str(row["side"]), endpoint.viewing)
    decoding, seed = job.options.decoding, job.options.seed
    depends = [endpoint.model, identity(job), decoding_fields(decoding), seed, seen]
    key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()
    return key, {
        "model": endpoint.model,
        "messages": [
            {"role": "system", "content": read_prompt().system},
            {"role": "user", "content": content_of(words)},
        ],
        **decoding_fields(decoding),
        "seed": seed,
    }


def decoding_fields(decoding: Decoding) -> dict[str, Any]:
    """How a report is written, in the words of the interface; `top_p` counts where there is sampling."""
    fields = {"max_tokens": decoding.max_tokens, "temperature": decoding.temperature}
    return fields | ({"top_p": decoding.top_p} if decoding.temperature else {})


def content_of(parts: Sequence[PromptPart]) -> list[dict[str, Any]]:
    """Words and slices as the parts of a message."""
    return [
        {"type": "text", "text": part.text}
        if part.image is None
        else {
            "type": "image_url",
            "image_url": {"url": f"data:image/png;base64,{base64.b64encode(png(part.image)).decode()}"},
        }
        for part in parts
    ]
