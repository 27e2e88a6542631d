"""A scan in one orientation, and what its mask says of a voxel."""
