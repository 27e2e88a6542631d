"""A run as W&B sees it: written after the fact from the study and the run folder. Knows no Ray."""
