"""Search of hyper-parameters on internal validation patients: space, study, trials, results."""
