"""`make maps`: the maps of a model's answers, and whether they are true."""
