"""The attribute heads of stage 1 beside its exported encoder: what the features say in a radiologist's terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from lightning_modules.core.errors import ModelError
from lightning_modules.export.image import WEIGHTS, weights_sha256
from lightning_modules.export.layout import Layout

HEADS, HEADS_CONFIG = "attribute_heads.safetensors", "attribute_heads.json"
ATTRIBUTE_HEADS = Layout(
    "Encoder folder", HEADS_CONFIG, HEADS, ("classes", "features", "phases", "encoder_sha256"), "make pretrain-image"
)


class AttributeHeads(nn.Module):
    """One linear head per attribute on a feature that is shifted by its contrast phase.

    Args:
        classes: Classes by attribute, in the order of the logits.
        features: Width of the encoder's feature.
        phases: Contrast phases in the order of their indices; none where the heads were not told the phase.
    """

    def __init__(self, classes: Mapping[str, Sequence[str]], features: int, phases: Sequence[str] = ()) -> None:
        super().__init__()
        self.classes = {name: list(values) for name, values in classes.items()}
        self.phases = list(phases)
        self.heads = nn.Linear(features, sum(map(len, self.classes.values())))
        self.phase = nn.Embedding(len(self.phases), features) if self.phases else None

    @classmethod
    def of_state(
        cls, state: Mapping[str, torch.Tensor], classes: Mapping[str, Sequence[str]], phases: Sequence[str]
    ) -> AttributeHeads:
        """The heads within the state of a stage-1 module.

        Args:
            state: The module's state; `heads.*` and, where the heads were told the phase, `phase.weight` are taken.
            classes: Classes by attribute.
            phases: Contrast phases in the order of their indices.

        Raises:
            ModelError: if the heads are absent or do not fit the classes.
        """
        found = {name: value for name, value in state.items() if name.split(".")[0] in ("heads", "phase")}
        weight = found.get("heads.weight")
        if weight is None:
            raise ModelError("The checkpoint holds no attribute heads; expected one of stage 1 (make pretrain-image).")
        heads = cls(classes, weight.shape[1], phases if "phase.weight" in found else ())
        _load(heads, found, "The checkpoint")
        return heads.eval()

    def forward(self, feature: torch.Tensor, phase: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [B, number of classes of all attributes] of features [B, F] and phases int64 [B]."""
        if self.phase is not None:
            if phase is None:
                raise ModelError("These attribute heads were trained with the contrast phase; tell it.")
            feature = feature + self.phase(phase)
        logits: torch.Tensor = self.heads(feature)
        return logits

    @torch.no_grad()
    def scores(self, feature: torch.Tensor, phase: str | None = None) -> dict[str, torch.Tensor]:
        """Scores of the classes by attribute: the softmax of the logits, not calibrated.

        Args:
            feature: float [B, F].
            phase: Contrast phase of all of them; where it is unknown the scores are averaged over the phases.

        Returns:
            float [B, number of classes] by attribute.

        Raises:
            ModelError: if the phase is not one that the heads know.
        """
        if phase is not None and self.phases and phase not in self.phases:
            raise ModelError(f"Phase {phase!r} was given; the attribute heads know {', '.join(self.phases)}.")
        names: list[str | None] = [phase] if phase is not None or not self.phases else list(self.phases)
        found = [self._of_phase(feature, name) for name in names]
        mean = torch.stack(found).mean(dim=0).split([len(values) for values in self.classes.values()], dim=1)
        return dict(zip(self.classes, mean, strict=True))

    def _of_phase(self, feature: torch.Tensor, phase: str | None) -> torch.Tensor:
        index = None
        if phase is not None and self.phases:
            index = torch.full((len(feature),), self.phases.index(phase), device=feature.device)
        parts = self(feature, index).split([len(values) for values in self.classes.values()], dim=1)
        return torch.cat([part.softmax(dim=1) for part in parts], dim=1)


def save_heads(folder: Path, heads: AttributeHeads) -> None:
    """Write the heads into the folder of the exported encoder whose features they read.

    Raises:
        ModelError: if the folder holds no exported encoder.
    """
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"Folder {folder.name} holds no exported encoder ({WEIGHTS}); export it before its heads.")
    content = {
        "encoder_sha256": weights_sha256(folder),
        "features": heads.heads.in_features,
        "phases": heads.phases,
        "classes": heads.classes,
    }
    for name in (HEADS, HEADS_CONFIG):
        (folder / name).unlink(missing_ok=True)
    ATTRIBUTE_HEADS.write(folder, content, heads.state_dict())


def load_heads(folder: Path) -> AttributeHeads:
    """The heads beside an exported encoder, in evaluation mode.

    Raises:
        ModelError: if they are absent, damaged, or those of other encoder weights.
    """
    content, _, state, _ = ATTRIBUTE_HEADS.read(folder)
    try:
        heads = AttributeHeads(content["classes"], int(content["features"]), content["phases"])
        encoder = str(content["encoder_sha256"])
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"The attribute heads in {folder.name} are damaged ({error}); export them again.") from error
    if encoder != weights_sha256(folder):
        raise ModelError(
            f"The attribute heads in {folder.name} belong to encoder {encoder[:12]}, which is not the one beside them; "
            "export both again."
        )
    _load(heads, state, f"Folder {folder.name}")
    return heads.eval()


def _load(heads: AttributeHeads, state: Mapping[str, torch.Tensor], where: str) -> None:
    try:
        heads.load_state_dict(dict(state))
    except RuntimeError as error:
        raise ModelError(
            f"{where}: the attribute heads do not fit their classes ({' '.join(str(error).split())[:200]})."
        ) from error
