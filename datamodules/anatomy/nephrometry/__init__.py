"""Kidneys, lesions and R.E.N.A.L. nephrometry from label maps."""

from datamodules.anatomy.nephrometry.kidneys import Kidney, Lesion, find_lesions, separate_kidneys
from datamodules.anatomy.nephrometry.mask_geometry import coarsened
from datamodules.anatomy.nephrometry.scores import Nephrometry, score

__all__ = ["Kidney", "Lesion", "Nephrometry", "coarsened", "find_lesions", "score", "separate_kidneys"]
