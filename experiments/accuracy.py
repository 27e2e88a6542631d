"""LCNN against MONAI's U-Net and Attention U-Net.

    python -m experiments.accuracy --cohort phantom                        synthetic, 96 pixels
    python -m experiments.accuracy --cohort FOLDER --profile cpu_real      your own slices, 160 pixels

Every network has about as many parameters as LCNN and goes through the same training on the same patients, with the
same budget in seconds; see experiments/study.py for the rules.
"""

import sys
from collections.abc import Sequence

from experiments.networks import network
from experiments.study import Contender, parser, run_study

NETWORKS = ("lcnn", "unet", "attention_unet")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; the exit code."""
    options = parser(__doc__)
    options.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=NETWORKS, metavar="NAME", help="who takes part"
    )
    parsed = options.parse_args(arguments)
    return run_study("accuracy", [Contender(name, network(name)) for name in parsed.networks], parsed)


if __name__ == "__main__":
    sys.exit(main())
