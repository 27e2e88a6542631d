"""python -m search.wandb_sweep; see `search.commands.wandb_sweep`."""

import sys

from search.commands.wandb_sweep import main

if __name__ == "__main__":
    sys.exit(main())
