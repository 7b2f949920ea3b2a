"""What is watched: checkpoints, predictions, progress."""
