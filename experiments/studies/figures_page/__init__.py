"""Pages whose figures come from the runs: named places in Markdown, filled out of the tables that runs leave."""
