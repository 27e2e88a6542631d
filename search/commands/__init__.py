"""Commands beside the search: dry run, retrain, replay, W&B."""
