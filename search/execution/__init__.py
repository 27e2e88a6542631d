"""Where trainings run: Ray Tune executes, and holds nothing that cannot be rebuilt from the study."""
