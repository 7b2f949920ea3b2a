"""`make chaos`: hostile inputs, staged faults and kills at random times, by seed, with what became of each."""
