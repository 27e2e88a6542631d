"""The options of commands that say in which windows slices are written, or whether they keep their HU."""

import argparse
from collections.abc import Sequence

from data_prep.common.errors import InputError
from data_prep.intensity.window import COLOURS, WINDOWS, Window

DEFAULT = "brain"


def add_window_options(parser: argparse.ArgumentParser) -> None:
    """``--window`` and ``--depth``."""
    names = ", ".join(f"{name} {window.width_hu:g}/{window.level_hu:g}" for name, window in WINDOWS.items())
    parser.add_argument(
        "--window",
        type=window_names,
        metavar="NAME[,NAME...]",
        help=f"how HU become grey: {names} (default: {DEFAULT}); three become the colours of a picture",
    )
    parser.add_argument(
        "--depth",
        type=int,
        choices=(8, 16),
        default=8,
        help="16 keeps the HU in the slices; windows are applied when they are compiled",
    )


def window_names(text: str) -> list[str]:
    """The names in an option's value, which commas divide.

    Raises:
        argparse.ArgumentTypeError: one of them is no window.
    """
    names = text.split(",")
    unknown = [name for name in names if name not in WINDOWS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is no window; choose of {', '.join(WINDOWS)}")
    return names


def chosen_windows(options: argparse.Namespace) -> tuple[Window, ...]:
    """The windows of these options, in order.

    Raises:
        InputError: one is named twice, or 8-bit slices cannot hold so many.
    """
    names = options.window or [DEFAULT]
    if options.depth == 8 and len(names) not in (1, COLOURS):
        raise InputError(
            f"--window {','.join(names)}: 8-bit slices hold 1 or {COLOURS} windows; name so many, or keep the HU by "
            "--depth 16"
        )
    return named_windows(names)


def named_windows(names: Sequence[str]) -> tuple[Window, ...]:
    """The windows that ``--window`` names.

    Raises:
        InputError: one is named twice.
    """
    if len(set(names)) < len(names):
        raise InputError(f"--window {','.join(names)}: a window twice; name each once")
    return tuple(WINDOWS[name] for name in names)
