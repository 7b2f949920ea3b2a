"""Image encoders of every kind, and the features that they give."""
