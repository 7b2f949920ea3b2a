"""Attributes read by rules: sections, clauses, sides, lesions, context."""
