"""Which reports of a batch say the same, so that they are not each other's negatives."""

from __future__ import annotations

import torch
from torch.nn import functional

from lightning_modules.core.errors import ModelError
from lightning_modules.core.missing import MISSING


class Knowledge:
    """Likeness of reports, from what they state.

    Two reports are compatible when they differ in no attribute that both state. Of every pair of reports
    - *positives* are a report and itself, identical reports, and compatible ones that state alike `positive_from` or
      more of the attributes that either states: they say the same;
    - *left out* are other compatible pairs that state alike `ignore_from` or more of the attributes that the shorter
      one states: nothing in them tells the kidneys apart. Normal kidneys are described by whatever came to mind, and
      would else be taken for different.
    Reports that state nothing agree with none. The relation is symmetric and does not depend on the order of a batch.

    Args:
        report_id: int64 [N], equal for identical reports.
        attributes: int64 [N, A], -100 where not stated; without them only identical reports are alike.
        positive_from: In (0, 1]; 1 asks for the same statements.
        ignore_from: In (0, 1].
        classes: Most classes of an attribute; asked of the device, which has to be waited for, where left out.

    Raises:
        ModelError: if a threshold is out of range.
    """

    def __init__(
        self,
        report_id: torch.Tensor,
        attributes: torch.Tensor | None = None,
        positive_from: float = 1.0,
        ignore_from: float = 0.5,
        classes: int | None = None,
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
            one_hot = functional.one_hot(code, classes or (int(code.max()) + 1 if code.numel() else 1))
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
        with torch.autocast(self.stated.device.type, enabled=False):
            alike = self.values[rows] @ self.values.T
            both = self.stated[rows] @ self.stated.T
        total = self.stated.sum(dim=1)
        either = total[rows, None] + total - both
        shorter = torch.minimum(total[rows, None], total)
        compatible = (both == alike) & (alike > 0)
        positive |= compatible & (alike >= self.positive_from * either)
        return positive, compatible & (alike >= self.ignore_from * shorter) & ~positive
