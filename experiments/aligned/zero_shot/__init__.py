"""Classification by prompts, without labels."""
