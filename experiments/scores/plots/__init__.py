"""Figures of a study, drawn from statistics; every label carries n, events and interval."""
