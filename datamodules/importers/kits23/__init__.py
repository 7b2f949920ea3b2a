"""The KiTS23 challenge data as a source of patients."""
