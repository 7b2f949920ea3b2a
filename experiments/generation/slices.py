"""What a model that reads pictures is shown of a kidney: axial slices of its box by phase, and words between them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from PIL import Image

from datamodules.cohort.columns import PHASES
from datamodules.errors import DataError
from datamodules.volumes.contract import PreprocessingContract
from experiments.generation.systems import WritingJob

PROMPTS = Path(__file__).parent / "prompts.yaml"


@dataclass(frozen=True)
class SlicePrompt:
    """The words around the slices; the fields are those of `prompts.yaml`.

    Args:
        version: Version of the words.
        system: Who the model is.
        intro: Before all slices.
        phase: Before the slices of a phase.
        slice: Before each slice.
        ask: Behind all slices.
        windows: Windows in HU by name, one a channel.
        sha256: Hash of all of it.
    """

    version: int
    system: str
    intro: str
    phase: str
    slice: str
    ask: str
    windows: Mapping[str, Sequence[tuple[float, float]]]
    sha256: str


@lru_cache(maxsize=1)
def read_prompt() -> SlicePrompt:
    """The words of `prompts.yaml`."""
    content = yaml.safe_load(PROMPTS.read_text(encoding="utf-8"))
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return SlicePrompt(**content, sha256=digest[:16])


@dataclass(frozen=True)
class Viewing:
    """How a kidney is shown.

    Args:
        windows: Windows by name: soft_tissue, wide, medgemma.
        slices: Slices of each phase, evenly over the box; at most as many as it has.
        pixels: Longer side of a slice in pixels; the other follows from the mm.

    Raises:
        DataError: if one is unknown or not positive.
    """

    windows: str
    slices: int = 8
    pixels: int = 448

    def __post_init__(self) -> None:
        known = read_prompt().windows
        if self.windows not in known or self.slices < 1 or self.pixels < 8:
            raise DataError(
                f"Slices with windows={self.windows}, slices={self.slices}, pixels={self.pixels} were asked for; "
                f"expected one of {', '.join(known)}, at least 1 and at least 8."
            )


class PromptPart(NamedTuple):
    """A piece of what is asked, in its order: words, or a slice as uint8 [height, width, 3]."""

    text: str = ""
    image: np.ndarray | None = None


class KidneyQuestion(NamedTuple):
    """What a model is asked of one kidney.

    Args:
        parts: Words and slices in their order.
        sha256: Hash of the words and of the HU of the slices, which no version of a library changes.
    """

    parts: list[PromptPart]
    sha256: str


def question(job: WritingJob, row: int, side: str, viewing: Viewing) -> KidneyQuestion:
    """What a model is asked of one kidney: no word of it tells patient, centre or date.

    Args:
        job: The kidneys.
        row: Row of the plan's kidneys.
        side: left or right.
        viewing: How the kidney is shown; of several series of a phase the first is.
    """
    prompt, contract = read_prompt(), job.module.wanted
    volumes, _, phases = job.images([row])
    digest = hashlib.sha256()
    first = {phase: place for place, phase in reversed(list(enumerate(phases)))}
    height, depth, width = contract.extent_mm
    parts = [PromptPart(prompt.intro.format(side=side, height=f"{height:g}", depth=f"{depth:g}", width=f"{width:g}"))]
    for phase in (name for name in PHASES if name in first):
        taken = axial_slices(volumes[first[phase], 0].numpy(), viewing.slices)
        digest.update(np.ascontiguousarray(taken).tobytes())
        name = phase.replace("_", "-").capitalize()
        parts.append(PromptPart(prompt.phase.format(phase=name, count=len(taken))))
        for number, image in enumerate(pictures(taken, contract, viewing), start=1):
            parts += [PromptPart(prompt.slice.format(number=number)), PromptPart(image=image)]
    parts.append(PromptPart(prompt.ask.format(side=side)))
    for part in parts:
        digest.update(f"{part.text}\n".encode())
    return KidneyQuestion(parts, digest.hexdigest())


def axial_slices(volume: np.ndarray, count: int) -> np.ndarray:
    """Axial slices in the radiologist's view, from the head downwards, evenly over a volume.

    Args:
        volume: [D, H, W], stored from inferior to superior, posterior to anterior, left to right.
        count: Slices; all of them where there are fewer.

    Returns:
        [count, H, W], anterior above, the patient's right on the left.
    """
    count = min(count, len(volume))
    # The middle of each of `count` equal parts, so that neither end of the box is favoured.
    places = ((np.arange(count) + 0.5) * len(volume) / count).astype(np.int64)[::-1]
    return volume[places, ::-1, ::-1]


def pictures(slices: np.ndarray, contract: PreprocessingContract, viewing: Viewing) -> list[np.ndarray]:
    """Slices through the windows, a channel each, at the size that a model is shown.

    Args:
        slices: HU [N, H, W].
        contract: Their size in mm.
        viewing: Windows and size.

    Returns:
        uint8 [height, width, 3] each.
    """
    _, height_mm, width_mm = contract.extent_mm
    scale = viewing.pixels / max(height_mm, width_mm)
    size = max(1, round(width_mm * scale)), max(1, round(height_mm * scale))
    windows = read_prompt().windows[viewing.windows]
    result = []
    for view in slices:
        shown = [_windowed(view.astype(np.float32), *window) for window in windows]
        channels = [np.asarray(Image.fromarray(channel).resize(size, Image.Resampling.BICUBIC)) for channel in shown]
        result.append(np.stack(channels if len(channels) == 3 else channels[:1] * 3, axis=-1))
    return result


def _windowed(hu: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.round(255 * np.clip((hu - low) / (high - low), 0, 1)).astype(np.uint8)


def png(image: np.ndarray) -> bytes:
    """A slice as PNG, grey where its channels are equal; pixels and nothing else, no time and no text."""
    grey = bool((image == image[..., :1]).all())
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(image[..., 0] if grey else image)).save(buffer, format="PNG")
    return buffer.getvalue()
