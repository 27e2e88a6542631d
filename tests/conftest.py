"""What holds for all tests; it also makes this folder's helpers importable from them."""

import os

# Whoever runs the tests may be logged in to W&B; what the tests train does not belong there.
os.environ["WANDB_MODE"] = "disabled"
