"""Boxes of kidneys for series without a mask, in a table of their own."""

from __future__ import annotations

from pathlib import Path

from datamodules.cohort.columns import SIDES, Column, Table
from datamodules.importers.delimited import read_table
from datamodules.importers.locate import parse_box

Boxes = dict[str, tuple[tuple[str, tuple[float, ...]], ...]]

BOX_COLUMNS = Table(
    "boxes",
    ("series_uid", "side"),
    (
        Column("series_uid", "string", "SeriesInstanceUID.", nullable=False),
        Column("side", "string", "Side of the kidney.", nullable=False, choices=SIDES),
        Column("box_ras_mm", "string", "x y z of two opposite corners in RAS millimetres.", nullable=False),
    ),
)
"""Columns of a table of boxes."""


def read_boxes(path: Path) -> Boxes:
    """Read a table of boxes.

    Args:
        path: CSV or TSV with the columns of `BOX_COLUMNS`.

    Returns:
        Side and six numbers of every box of each series.

    Raises:
        DataError: naming file, row and column of the first bad cell.
    """
    boxes: Boxes = {}
    for line, row in read_table(path, BOX_COLUMNS).iterrows():
        box = parse_box(str(row["box_ras_mm"]), f"{path.name}, row {line}, column box_ras_mm")
        boxes[str(row["series_uid"])] = (*boxes.get(str(row["series_uid"]), ()), (str(row["side"]), box))
    return boxes
