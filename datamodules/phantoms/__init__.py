"""A seeded generator of multi-centre renal-mass patients: phantoms with known truth, made without any download."""
