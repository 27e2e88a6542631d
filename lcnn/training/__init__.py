"""From stacks of slices to a trained network."""
