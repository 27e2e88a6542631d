"""The one exception that a user is meant to read, and how others are quoted in it."""

from pydantic import ValidationError


class InputError(ValueError):
    """Bad input from outside: a file, a folder, a setting.

    The message is one line that names what is wrong, where (file and key) and the remedy. Commands print
    it without a traceback and exit with code 2.
    """


def first_line(error: BaseException) -> str:
    """What an exception says, on one line; its name where it says nothing."""
    return _lines(error)[0]


def first_fault(error: ValidationError) -> str:
    """Where the content that a validation refused is wrong, and how."""
    fault = error.errors()[0]
    return ": ".join(filter(None, (".".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, "))))


def disk_line(error: OSError) -> str:
    """What a command says of a disk that is full, read-only or gone: where, why, and what to do."""
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or first_line(error)}; see to that, then the same command goes on"


def last_line(error: BaseException) -> str:
    """The last line of what an exception says, which is where wrapped tracebacks name the cause."""
    return _lines(error)[-1]


def _lines(error: BaseException) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
