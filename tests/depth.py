"""How far the tests go: few cases in `make test`, all of them in `make test-deep`.

Markers: `deep` tests run in `make test-deep` alone; `deeper` ones run in both, and have more cases there.
"""

import os

IS_DEEP = os.environ.get("LCNN_TESTS") == "deep"


def cases(few: int, full: int) -> int:
    """The number of cases for this run; whoever asks is marked `deeper`."""
    return full if IS_DEEP else few
