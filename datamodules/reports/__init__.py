"""Structured attributes of a kidney: what they are, and how they are read out of a report."""
