"""DICOM folders as a source of patients."""

from datamodules.importers.dicom.dicom_source import DicomSource

__all__ = ["DicomSource"]
