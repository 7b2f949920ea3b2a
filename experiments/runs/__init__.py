"""How anything runs: configuration, launch, tracking, locks, processes, folders."""
