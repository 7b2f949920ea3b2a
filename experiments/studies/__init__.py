"""Many runs read together: comparison, curve, sweep, report."""
