"""Attributes read by a language model that can only give valid answers."""
