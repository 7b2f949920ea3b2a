"""One scan: embedding, attributes, nearest reports, zero-shot scores."""
