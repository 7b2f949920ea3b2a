"""One patient in, the whole assessment out: nephrometry, tasks, attributes, like cases; as JSON, page and table."""
