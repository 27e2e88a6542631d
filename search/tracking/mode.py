"""Whether and how a run is sent to W&B."""

import os
from enum import StrEnum

PROJECT = "lcnn-search"
"""W&B project, where WANDB_PROJECT names no other."""


class Mode(StrEnum):
    """What ``--wandb`` chooses from."""

    OFFLINE = "offline"
    """Files below the run folder, for `wandb sync` to send."""
    ONLINE = "online"
    OFF = "off"


def project() -> str:
    """The W&B project."""
    return os.environ.get("WANDB_PROJECT") or PROJECT


def target(mode: Mode) -> str:
    """Names the place that runs are written to."""
    if mode == Mode.OFFLINE:
        return mode.value
    return f"{_server()}/{os.environ.get('WANDB_ENTITY', '')}/{project()}"


def is_logged_in() -> bool:
    """Whether W&B has credentials on this machine, by its own rules; its server is not asked."""
    from wandb.errors import AuthenticationError  # noqa: PLC0415
    from wandb.sdk.lib import wbauth  # noqa: PLC0415

    try:
        return wbauth.authenticate_session(host=_server(), source="", prompt=False, update_session=False) is not None
    except AuthenticationError:
        return False


def _server() -> str:
    """The W&B server that this machine's settings name."""
    from wandb.sdk import wandb_setup  # noqa: PLC0415

    # Not wandb.setup(): that starts W&B's service, whose end this process would have to wait for.
    return wandb_setup.singleton().settings.base_url
