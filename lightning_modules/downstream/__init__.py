"""Downstream tasks: classification and survival."""
