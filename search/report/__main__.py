"""Write the page of a finished run again.

python -m search.report results/<run>
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from data_prep.common.cli_errors import Parser, cli_errors
from search.console.display import Display
from search.report.page import write_report
from search.run.opened import open_run


@cli_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = Parser(
        prog="python -m search.report",
        description="Write report.html of a tested run: one page with the answer, the evidence and how it was made. "
        "It opens offline and asks nothing of the network.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder, like results/lcnn-cpu")
    root = parser.parse_args(arguments).run
    run = open_run(root, root.parent, Display())
    write_report(run)
    print(run.folder.report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
