"""Watches the servers of the Ray that this process started, and ends the process where one of them dies.

Nothing is lost by it, for the study holds every epoch and a training its checkpoint. Ray itself answers such a death
after 15 to 60 seconds, by ending the process without a word that a person could use; and whoever leaves Ray's code in
good order, Tune's or its own shutdown, waits as long for the dead.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from subprocess import Popen

from ray._private import worker

SERVERS = ("gcs_server", "raylet")
"""Ray's names of the processes without which nothing runs; the others of its processes it can do without."""
LOOK_S = 0.5
"""Between two looks at the servers."""


@contextmanager
def watching(on_death: Callable[[str], None]) -> Iterator[None]:
    """End this process, with exit code 1, where a server of the Ray that it has started dies during the block.

    Args:
        on_death: tells a person why; called in a thread of its own.
    """
    left = threading.Event()
    watch = threading.Thread(target=_watch, args=(left, on_death), name="ray-watch", daemon=True)
    watch.start()
    try:
        yield
    finally:
        left.set()
        watch.join()  # Ray is shut down next, and its servers with it


def _watch(left: threading.Event, on_death: Callable[[str], None]) -> None:
    node = worker._global_node  # only Ray's own books say what it has started
    servers: dict[str, Popen[bytes]] = {name: node.all_processes[name][0].process for name in SERVERS}
    while not left.wait(LOOK_S):
        for name, server in servers.items():
            if (code := server.poll()) is not None:
                node.kill_all_processes(check_alive=False, allow_graceful=False)
                how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                on_death(
                    f"Ray's {name} was ended by {how}; see that there is memory left, then the same command goes on"
                )
                os._exit(1)
