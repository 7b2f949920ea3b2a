"""The value of what is not known."""

MISSING = -100
"""What a target, an attribute or a token label holds where it is not known; losses leave it out. As in the batch."""
