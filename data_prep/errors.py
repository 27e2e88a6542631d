"""The one exception that a user is meant to read."""


class InputError(ValueError):
    """Bad input from outside: a file, a folder, a setting.

    The message is one line that names what is wrong, where (file and key) and the remedy. Commands print
    it without a traceback and exit with code 2.
    """
