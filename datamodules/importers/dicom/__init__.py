"""DICOM folders as a source of patients."""

from datamodules.importers.dicom.source import DicomSource

__all__ = ["DicomSource"]
