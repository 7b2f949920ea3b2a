"""Metrics that store what every statistic is computed from."""
