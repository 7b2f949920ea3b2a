"""From what a user wrote to a command that runs: names and forms checked, help, options."""
