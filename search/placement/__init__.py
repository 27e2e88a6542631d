"""What a training takes, and how many fit on a machine."""
