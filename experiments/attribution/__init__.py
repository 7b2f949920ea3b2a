"""What a network's answer about one kidney rests on, as a map of its voxels, and whether such a map is true."""
