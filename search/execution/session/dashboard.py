"""What Ray shows of a run beside our own display: its dashboard in a browser, and its output."""

import shutil
import sys
from pathlib import Path

from data_prep.common.wording import pasted

LOOPBACK = "127.0.0.1"
"""The dashboard can run code; it is for this machine's own browser, or a tunnel to it."""
WITHOUT = "Ray's dashboard did not start (does it have the packages of ray[default]?); the search goes on without it"


def how_to_open(address: str | None) -> str:
    """Where the dashboard is and how to log in, in one or two lines.

    Args:
        address: host and port; None where it did not start.
    """
    if not address:
        return WITHOUT
    token = f"{pasted(_ray())} get-auth-token"
    return f"Ray dashboard: http://{address}/#/cluster\n  it asks for a token; this prints it: {token}"


def _ray() -> str:
    """Ray's command as it can be typed here."""
    own = Path(sys.executable).with_name("ray")
    return "ray" if shutil.which("ray") or not own.exists() else str(own)
