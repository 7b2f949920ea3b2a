"""Scans and reports in one space: zero-shot classification, retrieval, one scan."""
