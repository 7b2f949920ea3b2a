"""Generated reports of kidneys: who writes them, and how they are scored on words and on facts."""
