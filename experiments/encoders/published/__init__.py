"""Encoders that others published: their weights here, their volumes, and what there is."""
