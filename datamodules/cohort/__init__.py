"""A cohort on disk: its tables, splits, labels, times and identity."""
