"""One point of a study: an encoder on a task, fine-tuned or with a model on its frozen features."""
