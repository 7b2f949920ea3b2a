"""Importers: from a hospital's files to a cohort."""
