"""Reports in other words, and with one fact changed."""
