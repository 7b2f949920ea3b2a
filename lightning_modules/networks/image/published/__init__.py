"""Published CT encoders: architectures, weights as released, features as released."""
