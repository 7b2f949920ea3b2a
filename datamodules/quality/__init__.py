"""Whether a cohort is fit for use: what fails, what misleads, what stands out."""
