"""From a cohort to batches: samples, their order, loaders."""
