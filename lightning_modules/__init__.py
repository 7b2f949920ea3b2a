"""What is learned: LightningModules, one per stage or kind of task."""
