"""Frozen features as stage 1's attribute heads read them, and what the prompts of a task weigh there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.linalg import block_diag
from scipy.special import softmax

from datamodules.errors import DataError
from experiments.aligned.stated_facts import stated_values
from experiments.aligned.zero_shot.prompt_sets import PromptSet
from lightning_modules.export.attribute_heads import AttributeHeads, load_heads


@dataclass(frozen=True)
class AttributeSpace:
    """The logits of attributes as coordinates of features, those of one attribute less their mean.

    It is linear in the features: a model of it is a linear model of the features, whose penalty asks how far it moves
    in a radiologist's terms, and not along what the encoder happens to spread.

    Args:
        classes: Classes by attribute, in the order of the coordinates.
        matrix: float64 [F, K].
        shift: float64 [K].
    """

    classes: Mapping[str, Sequence[str]]
    matrix: np.ndarray
    shift: np.ndarray

    @classmethod
    def of_heads(cls, heads: AttributeHeads) -> AttributeSpace:
        """The space of heads; those that are told the phase shift it by a number that standardising takes away."""
        centring = block_diag(*(np.eye(len(values)) - 1 / len(values) for values in heads.classes.values()))
        weight = heads.heads.weight.detach().double().numpy()
        bias = heads.heads.bias.detach().double().numpy()
        return cls(heads.classes, weight.T @ centring, bias @ centring)

    @classmethod
    def load(cls, folder: Path) -> AttributeSpace:
        """The space of the heads beside an exported encoder.

        Raises:
            ModelError: if they are absent, damaged, or those of other weights.
        """
        return cls.of_heads(load_heads(folder))

    def read(self, feature: np.ndarray) -> np.ndarray:
        """Readings float64 [N, K] of features [N, F]."""
        return np.asarray(feature, dtype=np.float64) @ self.matrix + self.shift

    def prompt_weights(self, prompts: PromptSet, seen: np.ndarray) -> np.ndarray:
        r"""Weights [C, K] with which readings give the scores of the prompts.

        A class scores by the mean over its descriptions of :math:`\sum_a \log p(value_a)`. The logarithm of the softmax
        is taken as linear around the mean scores of images at hand; labels are not asked for.

        Args:
            prompts: Prompts of the task, in the order of its classes.
            seen: Readings of images [N, K].

        Raises:
            DataError: if a class has no description of which an attribute is read.
        """
        places = dict(zip(self.classes, self._starts(), strict=True))
        mean = self._mean_scores(seen)
        rows = []
        for entry, descriptions in zip(prompts.classes, stated_values(prompts, self.classes), strict=True):
            found = [self._weights(facts, places, mean) for facts in descriptions if facts]
            if not found:
                raise DataError(
                    f"The prompts of task {prompts.task} state nothing of class {entry.value} that the attribute heads "
                    f"read; edit experiments/aligned/zero_shot/prompts/{prompts.task}.yaml."
                )
            rows.append(np.mean(found, axis=0))
        return np.stack(rows)

    def _starts(self) -> np.ndarray:
        return np.cumsum([0, *[len(values) for values in self.classes.values()][:-1]])

    def _mean_scores(self, seen: np.ndarray) -> np.ndarray:
        """Mean score of every class of every attribute [K]; uniform where no image is at hand."""
        rows = seen if len(seen) else np.zeros((1, self.matrix.shape[1]))
        parts = np.split(rows, self._starts()[1:], axis=1)
        return np.concatenate([softmax(part, axis=1).mean(axis=0) for part in parts])

    def _weights(self, facts: Sequence[tuple[str, str]], places: Mapping[str, int], mean: np.ndarray) -> np.ndarray:
        weights = np.zeros(len(mean))
        for name, value in facts:
            values = self.classes[name]
            own = slice(places[name], places[name] + len(values))
            weights[own] -= mean[own]
            weights[places[name] + values.index(value)] += 1
        return weights
