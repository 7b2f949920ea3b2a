"""Benchmarks of the suite's hot paths, each side by side with the code that it replaces, in one run."""
