"""What is seen: a cohort and its importers, volumes, reports, and the DataModules over them.

Here stands what a user configures or derives from. Each is imported when it is asked for, so that whoever needs an
error or a table waits for no library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.alignment import AlignmentDataModule as AlignmentDataModule
    from datamodules.attributes import AttributeDataModule as AttributeDataModule
    from datamodules.augmentation.parameters import AugmentationConfig as AugmentationConfig
    from datamodules.base import VolumeDataModule as VolumeDataModule
    from datamodules.batch import RoiBatch as RoiBatch
    from datamodules.bound_data import BoundDataModule as BoundDataModule
    from datamodules.cohort.cohort import Cohort as Cohort
    from datamodules.cohort.labels import Label as Label
    from datamodules.errors import DataError as DataError
    from datamodules.importers.records import Source as Source
    from datamodules.tasks import RoiDataModule as RoiDataModule
    from datamodules.texts import ReportDataModule as ReportDataModule
    from datamodules.token_alignment import TokenAlignmentDataModule as TokenAlignmentDataModule
    from datamodules.volumes.contract import PreprocessingContract as PreprocessingContract
    from datamodules.writing import ReportImageDataModule as ReportImageDataModule

PLACES = {
    "AlignmentDataModule": "datamodules.alignment",
    "AttributeDataModule": "datamodules.attributes",
    "AugmentationConfig": "datamodules.augmentation.parameters",
    "BoundDataModule": "datamodules.bound_data",
    "Cohort": "datamodules.cohort.cohort",
    "DataError": "datamodules.errors",
    "Label": "datamodules.cohort.labels",
    "PreprocessingContract": "datamodules.volumes.contract",
    "ReportDataModule": "datamodules.texts",
    "ReportImageDataModule": "datamodules.writing",
    "RoiBatch": "datamodules.batch",
    "RoiDataModule": "datamodules.tasks",
    "Source": "datamodules.importers.records",
    "TokenAlignmentDataModule": "datamodules.token_alignment",
    "VolumeDataModule": "datamodules.base",
}
"""The module that defines each."""


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *PLACES})
