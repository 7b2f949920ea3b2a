"""The kidney and what lies around it: tissues, their appearance, and nephrometry."""
