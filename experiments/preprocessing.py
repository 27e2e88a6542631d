"""What each optional preparation of a patient's volume is worth: LCNN on pictures prepared in different ways.

    python -m experiments.preprocessing --cohort phantom                        synthetic, 96 pixels
    python -m experiments.preprocessing --cohort FOLDER --profile cpu_real      your own slices, 160 pixels

The network, its training and its budget are the same for all; see experiments/study.py for the rules. All are tested on
the patients' own grids, so what a preparation loses on the way there and back counts against it. "crop - X" above zero:
the head crop alone, as shipped, beats X.
"""

import sys
from collections.abc import Sequence

from experiments.study import Contender, parser, run_study
from lcnn.network.model import build_model

PREPARATIONS = (
    Contender("crop", build_model, shown={"crop": "head"}),
    Contender("none", build_model, shown={"crop": "none"}),
    Contender("crop_couch", build_model, shown={"crop": "head", "remove_couch": True}),
    Contender("crop_skull", build_model, shown={"crop": "head", "strip_skull": True}),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; the exit code."""
    return run_study("preprocessing", PREPARATIONS, parser(__doc__).parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
