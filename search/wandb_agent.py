"""python -m search.wandb_agent; see `search.commands.wandb_agent`."""

import sys

from search.commands.wandb_agent import main

if __name__ == "__main__":
    sys.exit(main())
