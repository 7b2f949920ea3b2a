"""Pretraining: one LightningModule a stage."""
