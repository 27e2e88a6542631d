"""Numbers and names in the page's words."""


def minus(text: str) -> str:
    """Numbers in ASCII with the minus sign of print."""
    return text.replace("-", "\N{MINUS SIGN}")


def number(value: float | None) -> str:
    """A figure with three digits."""
    return "no value" if value is None else minus(f"{value:.3f}")


def amount(value: float, sign: str = "") -> str:
    """A figure of any size with three digits or more, thousands apart."""
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2
    return minus(f"{value:{sign},.{digits}f}")


def clip(words: str, most: int) -> str:
    """Words that take at most so many letters."""
    return words if len(words) <= most else f"{words[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def parameter_name(name: str) -> str:
    """The last two parts of a dotted name are enough to know it by."""
    return ".".join(name.split(".")[-2:])
