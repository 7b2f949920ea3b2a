"""The study report: cohort, results, figures and checklist of finished runs on one page."""
