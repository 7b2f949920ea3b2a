"""InfoNCE between images and texts over the global batch: plain, and aware of reports that say the same."""

from __future__ import annotations

import torch

from lightning_modules.core.distributed import gather_rows, number_of_ranks, row_counts, row_offset
from lightning_modules.core.errors import ModelError
from lightning_modules.losses.knowledge import Knowledge
from lightning_modules.losses.symmetric import CHUNK, Relation, check_pairs, symmetric_cross_entropy, working_type


def info_nce(
    image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, *, chunk: int = CHUNK, across_ranks: bool = True
) -> torch.Tensor:
    """Symmetric InfoNCE as in CLIP (Radford et al., ICML 2021): row i of images belongs to row i of texts.

    L = 1 / 2N * sum over i of [CE(scale * V_i T', i) + CE(scale * T_i V', i)] over all N pairs of all ranks.

    Args:
        image: float [n, d], unit length; n may differ between ranks.
        text: float [n, d], unit length.
        scale: Scalar, the inverse temperature.
        chunk: Rows computed together.
        across_ranks: Whether the batch is that of all ranks, or this rank's alone.

    Returns:
        This rank's share times the number of ranks, float32: its mean over ranks is the loss of the global batch, and
        so is the mean of gradients that DistributedDataParallel takes.

    Raises:
        ModelError: if the shapes do not go together.
    """
    check_pairs(image, text, chunk)
    counts = row_counts(len(image), image.device) if across_ranks else [len(image)]
    return _symmetric(image, text, scale, counts, None, chunk, across_ranks)


def knowledge_info_nce(
    image: torch.Tensor,
    text: torch.Tensor,
    scale: torch.Tensor,
    report_id: torch.Tensor,
    attributes: torch.Tensor | None = None,
    *,
    positive_from: float = 1.0,
    ignore_from: float = 0.5,
    classes: int | None = None,
    chunk: int = CHUNK,
    across_ranks: bool = True,
) -> torch.Tensor:
    """InfoNCE that does not push apart what the reports say is the same.

    A row shares its target evenly between all columns that are its positives: its own, those of an identical report,
    and those that state the same. Columns of which nothing stated tells it apart are left out of its comparison,
    neither pulled nor pushed; `losses.knowledge.Knowledge` has the definitions. With q_i the target of row i and p_i
    the softmax over the columns that are not left out, L = 1 / 2N * sum over rows and columns of KL(q_i || p_i), which
    is 0 at best however many positives there are. Where no two reports are alike it is `info_nce` exactly.

    Args:
        image: float [n, d], unit length; n may differ between ranks.
        text: float [n, d], unit length.
        scale: Scalar, the inverse temperature.
        report_id: int64 [n], equal for identical reports.
        attributes: int64 [n, A], -100 where not stated; without them only identical reports are alike.
        positive_from: Share of what either states from which compatible reports say the same, in (0, 1].
        ignore_from: Share of what the shorter states from which they are not compared, in (0, 1].
        classes: Most classes of an attribute, where they are known.
        chunk: Rows computed together.
        across_ranks: As in `info_nce`.

    Returns:
        As `info_nce`.

    Raises:
        ModelError: if the shapes do not go together, or a threshold is out of range.
    """
    check_pairs(image, text, chunk)
    if report_id.shape != image.shape[:1] or (attributes is not None and len(attributes) != len(image)):
        found = None if attributes is None else tuple(attributes.shape)
        raise ModelError(
            f"Contrastive loss: {len(image)} images, report_id of shape {tuple(report_id.shape)} and attributes of "
            f"shape {found} were found; expected one report_id and one row of attributes for each image."
        )
    counts = row_counts(len(image), image.device) if across_ranks else [len(image)]
    if across_ranks:
        report_id = gather_rows(report_id, counts)
        attributes = None if attributes is None else gather_rows(attributes, counts)
    first = row_offset(counts) if across_ranks else 0
    known = Knowledge(report_id, attributes, positive_from, ignore_from, classes)

    def relation(rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        return known.pairs(slice(first + rows.start, first + rows.stop))

    return _symmetric(image, text, scale, counts, relation, chunk, across_ranks)


def _symmetric(
    image: torch.Tensor,
    text: torch.Tensor,
    scale: torch.Tensor,
    counts: list[int],
    relation: Relation | None,
    chunk: int,
    across_ranks: bool,
) -> torch.Tensor:
    """The loss of either kind; texts of all ranks are gathered here."""
    dtype = working_type(image)
    columns = gather_rows(text.to(dtype), counts) if across_ranks else text.to(dtype)
    first = row_offset(counts) if across_ranks else 0
    ranks = number_of_ranks() if across_ranks else 1
    return symmetric_cross_entropy(image.to(dtype), columns, scale.to(dtype), first, ranks, relation, chunk)
