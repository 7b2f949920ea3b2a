"""Doubt: whether a scan is like the training data, whether probabilities are true, and what is not said."""
