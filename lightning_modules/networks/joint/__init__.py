"""Networks over images and texts."""
