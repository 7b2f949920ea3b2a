"""Data-efficiency curves: all points of a study, their table and figure."""
