"""What training leaves for others: folders that anyone can load."""
