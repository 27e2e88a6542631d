"""Numbers in words."""


def counted(count: int, noun: str) -> str:
    """So many of something: 1 epoch, 2 epochs."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
