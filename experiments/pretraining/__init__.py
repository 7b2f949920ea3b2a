"""The pretraining stages, and what they reached."""
