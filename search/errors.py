"""How a run can fail without anything in its input being wrong."""


class RunFailed(RuntimeError):
    """A run that cannot go on; the message is one line that a person reads, and the exit code is 1."""
