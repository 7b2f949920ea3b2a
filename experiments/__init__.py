"""What is run: command line, configurations, studies and statistics."""
