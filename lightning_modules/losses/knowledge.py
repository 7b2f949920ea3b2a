"""Which reports of a batch say the same, so that they are not each other's negatives."""

from __future__ import annotations

import torch
from torch.nn import functional

from lightning_modules.errors import ModelError
from lightning_modules.losses.balance import MISSING


class Knowledge:
    """Likeness of reports, from what they state.

    The agreement of two reports is the number of attributes that both state alike over the number that either
    states, and 0 where they differ in one that both state. Of every pair of reports
    - *positives* are a report and itself, identical reports, and reports with an agreement of `positive_from` or more;
    - *left out* are other pairs with an agreement of `ignore_from` or more: neither the same nor different.
    Reports that state nothing agree with none. The relation is symmetric and does not depend on the order of a batch.

    Args:
        report_id: int64 [N], equal for identical reports.
        attributes: int64 [N, A], -100 where not stated; without them only identical reports are alike.
        positive_from: In (0, 1]; 1 asks for the same statements.
        ignore_from: In (0, 1]; at or above `positive_from` no pair is left out.

    Raises:
        ModelError: if a threshold is out of range.
    """

    def __init__(
        self,
        report_id: torch.Tensor,
        attributes: torch.Tensor | None = None,
        positive_from: float = 1.0,
        ignore_from: float = 0.8,
    ) -> None:
        if not (0 < positive_from <= 1 and 0 < ignore_from <= 1):
            raise ModelError(
                f"Knowledge: positive_from={positive_from} and ignore_from={ignore_from} were found; "
                "expected both in (0, 1]."
            )
        self.report_id, self.positive_from, self.ignore_from = report_id, positive_from, ignore_from
        self.stated: torch.Tensor | None = None
        if attributes is not None:
            stated = attributes != MISSING
            code = attributes.masked_fill(~stated, 0)
            one_hot = functional.one_hot(code, int(code.max()) + 1 if code.numel() else 1)
            # Counts are products of zeros and ones: exact in single precision.
            self.stated = stated.float()
            self.values = (one_hot * stated[..., None]).flatten(1).float()

    def pairs(self, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Positives and pairs left out, bool [rows, N] each, of some rows against all columns."""
        own = torch.arange(rows.start, rows.stop, device=self.report_id.device)
        everyone = torch.arange(len(self.report_id), device=self.report_id.device)
        positive = self.report_id[rows, None] == self.report_id
        positive |= own[:, None] == everyone
        if self.stated is None:
            return positive, torch.zeros_like(positive)
        agreement = self._agreement(rows)
        positive |= agreement >= self.positive_from
        return positive, (agreement >= self.ignore_from) & ~positive

    def _agreement(self, rows: slice) -> torch.Tensor:
        """Agreement [rows, N] in [0, 1]."""
        assert self.stated is not None
        with torch.autocast(self.stated.device.type, enabled=False):
            alike = self.values[rows] @ self.values.T
            both = self.stated[rows] @ self.stated.T
        total = self.stated.sum(dim=1)
        either = total[rows, None] + total - both
        return (alike / either.clamp_min(1)).masked_fill_(both > alike, 0.0)
