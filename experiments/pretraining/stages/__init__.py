"""The stages of pretraining: each module's `run(wanted, cohort, fold)` trains one and exports what it learned."""
