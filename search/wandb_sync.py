"""python -m search.wandb_sync; see `search.commands.wandb_sync`."""

import sys

from search.commands.wandb_sync import main

if __name__ == "__main__":
    sys.exit(main())
