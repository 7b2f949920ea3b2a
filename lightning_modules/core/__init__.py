"""What every LightningModule shares: base, optimiser, errors, contracts, ranks."""
