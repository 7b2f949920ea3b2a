"""NIfTI scans as a source of patients."""
