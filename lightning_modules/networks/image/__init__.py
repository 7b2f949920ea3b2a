"""3D image encoders."""
