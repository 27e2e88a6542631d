"""What holds for all tests."""

import os

# Whoever runs the tests may be logged in to W&B; what the tests train does not belong there.
os.environ["WANDB_MODE"] = "disabled"
