"""Write the W&B sweep that equals a space file, so that both searches can be compared.

python -m search.wandb_sweep --space spaces/lcnn.yaml --profile cpu --out sweep.yaml
wandb sweep sweep.yaml                                      prints the sweep's name
wandb agent ENTITY/PROJECT/ID                               here; trains with the same code, split and store
python -m experiments.compare results/lcnn-cpu results/lcnn-cpu-sweep

The sweep has the same ranges, W&B's Bayesian search in place of TPE, and its hyperband at the rungs of ASHA. Where it
cannot be the same, the file says so.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from data_prep.common.cli_errors import Parser, cli_errors
from data_prep.common.files import write_text_atomically
from search.spec.settings import Overrides, load_spec
from search.tracking.sweep import sweep_text


@cli_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", type=Path, required=True, metavar="FILE", help="the space file")
    parser.add_argument("--profile", default="auto", metavar="NAME", help="its profile, as for run_search.py")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write (default: standard output)")
    options = parser.parse_args(arguments)
    overrides = Overrides(options.profile, tuple(options.set))
    spec = load_spec(options.space, overrides, has_gpu=torch.cuda.is_available())
    space = spec.space(options.space)
    # By its name, and not as auto: agents may run on other machines.
    changes = ["--profile", spec.profile] if spec.profile else []
    changes += [part for change in options.set for part in ("--set", change)]
    text = sweep_text(spec, space, options.space, changes)
    if options.out is None:
        sys.stdout.write(text)
    else:
        write_text_atomically(options.out, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
