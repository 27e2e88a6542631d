"""A run as W&B and TensorBoard see it: written from the study and the run folder. Knows no Ray."""
