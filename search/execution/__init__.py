"""Where trainings run: Ray Tune as the muscle, and nothing that cannot be rebuilt from the study."""
