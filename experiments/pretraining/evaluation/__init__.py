"""Text encoders of reports, measured: masked tokens, flipped facts, attribute probes."""
