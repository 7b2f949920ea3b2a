"""Whether a device computes what it should, and how fast: every stage for a few steps on synthetic volumes."""
