"""Cross-entropy of a matrix of similarities by row and by column, in chunks of rows, without holding the matrix.

A rank has some rows and all columns. What a column needs of the rows of other ranks is one number, which is exchanged
instead of the rows. A chunk of rows is computed, used and forgotten, and computed once more for the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from lightning_modules.core.distributed import largest_over_ranks, sum_over_ranks
from lightning_modules.core.errors import ModelError

CHUNK = 512
"""Rows computed together: with 4,096 columns 8 MB a matrix."""

Relation = Callable[[slice], tuple[torch.Tensor, torch.Tensor]]
"""For a chunk of rows which columns are positives and which are left out of the comparison: bool [rows, N] each."""


def check_pairs(image: torch.Tensor, text: torch.Tensor, chunk: int) -> None:
    """Refuse embeddings that are not pairs.

    Raises:
        ModelError: with the shapes found.
    """
    if image.dim() != 2 or image.shape != text.shape or chunk < 1:
        raise ModelError(
            f"Contrastive loss: images {tuple(image.shape)}, texts {tuple(text.shape)} and chunk {chunk} were found; "
            "expected [n, d] twice and a chunk of at least 1."
        )


def working_type(image: torch.Tensor) -> torch.dtype:
    """Similarities are computed in single precision whatever the embeddings are in; in double where they are."""
    return torch.float64 if image.dtype == torch.float64 else torch.float32


def symmetric_cross_entropy(
    rows: torch.Tensor,
    columns: torch.Tensor,
    scale: torch.Tensor,
    first: int = 0,
    ranks: int = 1,
    relation: Relation | None = None,
    chunk: int = CHUNK,
) -> torch.Tensor:
    """Mean over rows and columns of KL(target || softmax), times the number of ranks where ranks share the rows.

    Args:
        rows: float [n, d], those of this rank.
        columns: float [N, d], of all ranks; its gradient is this rank's part of it.
        scale: Scalar that the similarities are multiplied with.
        first: The column that belongs to the first row.
        ranks: Number of ranks that share the rows; all of them call this together.
        relation: Positives, which share a target evenly, and pairs that are left out; each row has its own column for
            its only positive where left out. It must be symmetric.
        chunk: Rows computed together.
    """
    loss: torch.Tensor = _SymmetricCrossEntropy.apply(rows, columns, scale, first, ranks, relation, chunk)
    return loss


class _SymmetricCrossEntropy(torch.autograd.Function):
    """Loss and gradient in one pass forwards; backwards only scales the gradient.

    The gradient by the logit of row i and column j is (p_ij over the row + p_ij over the column - t_ij) / 2N with
    t_ij = w_ij / k_i + w_ij / k_j, where w_ij marks the positives and k counts them by row or column.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: torch.Tensor,
        columns: torch.Tensor,
        scale: torch.Tensor,
        first: int,
        ranks: int,
        relation: Relation | None,
        chunk: int,
    ) -> torch.Tensor:
        with torch.autocast(rows.device.type, enabled=False):
            chunks = _Chunks(rows, columns, scale, relation, chunk)
            row, column = chunks.normalizers(ranks)
            own = slice(first, first + len(rows))
            loss = (row.log_sum - row.positives.log()).sum()
            loss += (column.log_sum[own] - column.positives[own].log()).sum()
            by_rows, by_columns, by_scale = torch.zeros_like(rows), torch.zeros_like(columns), torch.zeros_like(scale)
            factor = ranks / (2 * len(columns))
            for part, logits, pairs in chunks:
                slope = (logits - row.log_sum[part, None]).exp_()
                slope += (logits - column.log_sum).exp_()
                if pairs is None:
                    loss -= 2 * logits.diagonal(first + part.start).sum()
                    slope.diagonal(first + part.start).sub_(2)
                else:
                    positive, ignored = pairs
                    target = (1 / row.positives[part])[:, None] + 1 / column.positives
                    target.masked_fill_(~positive, 0.0)
                    loss -= torch.dot(target.flatten(), logits.flatten())
                    slope.masked_fill_(ignored, 0.0).sub_(target)
                slope *= factor
                by_scale += torch.dot(slope.flatten(), logits.flatten()) / scale
                slope *= scale
                torch.mm(slope, columns, out=by_rows[part])
                by_columns.addmm_(slope.T, rows[part])
            ctx.save_for_backward(by_rows, by_columns, by_scale)
            return loss * factor

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        by_rows, by_columns, by_scale = ctx.saved_tensors
        return outer * by_rows, outer * by_columns, outer * by_scale, None, None, None, None


class _Normalizer(NamedTuple):
    """Of every row, or of every column."""

    log_sum: torch.Tensor  # of the exponentials of the logits that are compared
    positives: torch.Tensor  # their number


_Chunk = tuple[slice, torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]


class _Chunks:
    """Rows, logits and relation of a rank, chunk by chunk; kept between both passes where there is a single one."""

    def __init__(
        self, rows: torch.Tensor, columns: torch.Tensor, scale: torch.Tensor, relation: Relation | None, chunk: int
    ) -> None:
        self.rows, self.columns, self.scale, self.relation = rows, columns, scale, relation
        self.parts = [slice(start, min(start + chunk, len(rows))) for start in range(0, len(rows), chunk)]
        self.kept: _Chunk | None = None

    def __iter__(self) -> Iterator[_Chunk]:
        for part in self.parts:
            if self.kept is not None:
                yield self.kept
                continue
            logits = (self.rows[part] * self.scale) @ self.columns.T
            made = (part, logits, None if self.relation is None else self.relation(part))
            self.kept = made if len(self.parts) == 1 else None
            yield made

    def normalizers(self, ranks: int) -> tuple[_Normalizer, _Normalizer]:
        """Of this rank's rows, and of all columns over the rows of all ranks."""
        row, row_positives = self.rows.new_empty(len(self.rows)), self.rows.new_ones(len(self.rows))
        column = self.rows.new_full((len(self.columns),), float("-inf"))
        column_positives = torch.zeros_like(column)
        for part, logits, pairs in self:
            compared = logits
            if pairs is not None:
                positive, ignored = pairs
                compared = logits.masked_fill(ignored, float("-inf"))
                row_positives[part] = positive.sum(dim=1, dtype=row.dtype)
                column_positives += positive.sum(dim=0, dtype=row.dtype)
            row[part] = compared.logsumexp(dim=1)
            column = torch.logaddexp(column, compared.logsumexp(dim=0))
        if ranks > 1:
            largest = largest_over_ranks(column)
            column = largest + sum_over_ranks((column - largest).exp()).log()
            column_positives = sum_over_ranks(column_positives)
        if self.relation is None:
            column_positives = torch.ones_like(column)
        return _Normalizer(row, row_positives), _Normalizer(column, column_positives)
