"""Volumes of kidneys: their contract, how they are cut, stored and fetched."""
