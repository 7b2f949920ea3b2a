"""The kidney collections of The Cancer Imaging Archive as a source of patients."""
