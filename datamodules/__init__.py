"""What is seen: cohorts, splits, importers, preprocessing, shards and DataModules."""
