"""What a training takes, measured."""
