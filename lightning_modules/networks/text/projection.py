"""A projection of text embeddings that keeps what tells facts apart and drops what tells wordings apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lightning_modules.core.distributed import of_main_rank, sum_over_ranks
from lightning_modules.core.errors import ModelError

_COMMON = 100.0
"""Weight of the mean embedding among what is dropped: what all texts share is no fact."""


@dataclass
class Scatter:
    """Sums of squares of embeddings, gathered batch by batch in float64.

    Args:
        features: Width of the embeddings.
        device: Where the sums are kept.
    """

    features: int
    device: torch.device

    def __post_init__(self) -> None:
        def square() -> torch.Tensor:
            return torch.zeros(self.features, self.features, dtype=torch.float64, device=self.device)

        self.wording, self.fact = square(), square()
        self.total = torch.zeros(self.features, dtype=torch.float64, device=self.device)
        self.counts = torch.zeros(3, dtype=torch.float64, device=self.device)

    @torch.no_grad()
    def add(
        self, first: torch.Tensor, second: torch.Tensor, negatives: torch.Tensor, negative_of: torch.Tensor
    ) -> None:
        """Add a batch.

        Args:
            first: [B, F], texts.
            second: [B, F], the same facts in other words.
            negatives: [N, F], texts that differ from a second one in one fact.
            negative_of: int64 [N], which.
        """
        first, second, negatives = first.double(), second.double(), negatives.double()
        words, facts = first - second, second[negative_of] - negatives
        self.wording += words.T @ words
        self.fact += facts.T @ facts
        self.total += first.sum(dim=0) + second.sum(dim=0)
        self.counts += torch.tensor([len(words), len(facts), 2 * len(first)], device=self.device)

    def projection(self, dim: int, ridge: float = 0.3) -> torch.Tensor:
        """Linear map [dim, F] onto the directions in which a changed fact moves a text most, relative to other words.

        The leading eigenvectors of Fisher's generalised eigenproblem, whitened within: the scatter of changed facts
        against that of other words (Fisher, 1936; within-class covariance normalisation, Hatch et al., Interspeech
        2006). The latter is regularised, because words outside the training reports move a text, too. Every direction
        is weighed by the square root of its ratio of both scatters, so that the weakest ones, where words outside the
        training reports come back in, count little in a cosine and are there for a linear probe all the same.

        Args:
            dim: Number of directions.
            ridge: Added to the variance of every direction, as a multiple of the mean one.

        Returns:
            float32, the same on all ranks.

        Raises:
            ModelError: if there are fewer features than directions, or no pair or changed fact was added.
        """
        wording, fact, total, counts = (
            sum_over_ranks(value) for value in (self.wording, self.fact, self.total, self.counts)
        )
        if dim > self.features or float(counts[:2].min()) == 0:
            raise ModelError(
                f"A projection to {dim} of {self.features} dimensions was to be found from {int(counts[0])} pairs and "
                f"{int(counts[1])} changed facts; expected fewer dimensions, and at least one of both."
            )
        mean = total / counts[2]
        within = wording / counts[0]
        own = within.diagonal().mean()
        within = within + ridge * own * torch.eye(self.features, dtype=within.dtype, device=within.device)
        within = within + _COMMON * torch.outer(mean, mean)
        values, vectors = torch.linalg.eigh(within)
        whitened = vectors / values.clamp_min(torch.finfo(values.dtype).tiny).sqrt()
        ratio, order = torch.linalg.eigh(whitened.T @ (fact / counts[1]) @ whitened)
        found = (whitened @ order[:, -dim:] * ratio[-dim:].clamp_min(0).sqrt()).T.float().contiguous()
        return of_main_rank(found)
