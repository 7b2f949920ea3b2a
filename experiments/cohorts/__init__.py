"""Attributes out of reports: who reads them, and how well."""
