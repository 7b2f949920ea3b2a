"""DICOM folders as a source of patients."""
