"""Networks as plain modules."""
