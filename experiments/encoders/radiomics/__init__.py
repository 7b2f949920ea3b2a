"""Radiomics: features measured inside the masks of kidney and lesion, and the models that are fitted on them."""
