"""Statistics of a study: estimates with intervals, by patient."""
