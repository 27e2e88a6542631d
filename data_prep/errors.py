"""The one exception that a user is meant to read, and how others are quoted in it."""


class InputError(ValueError):
    """Bad input from outside: a file, a folder, a setting.

    The message is one line that names what is wrong, where (file and key) and the remedy. Commands print
    it without a traceback and exit with code 2.
    """


def first_line(error: BaseException) -> str:
    """What an exception says, on one line; its name where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
