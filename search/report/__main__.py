"""Write the page of a finished run again.

python -m search.report results/<run>
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from data_prep.common.cli_errors import Parser, answering
from search.report.page import write_report
from search.run.folder import RunFolder
from search.run.study import open_ledger


@answering
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = Parser(
        prog="python -m search.report",
        description="Write report.html of a tested run: one page with the answer, the evidence and how it was made. "
        "It opens offline and asks nothing of the network.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder, like results/lcnn-cpu")
    run = RunFolder(parser.parse_args(arguments).run)
    spec = run.read_spec()
    write_report(run, open_ledger(run, spec, spec.space(run.spec)))
    print(run.report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
