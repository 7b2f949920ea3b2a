"""Reports by scans and scans by reports."""
