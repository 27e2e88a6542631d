"""The windows that a model learned in, against those that slices are in."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from data_prep.cohort.pixels import Pixels
from data_prep.common.errors import InputError
from data_prep.intensity.window import in_words
from data_prep.intensity.window_options import named_windows
from lcnn.inference.model_file import TrainedModel


def in_named_windows(model: TrainedModel, names: Sequence[str]) -> TrainedModel:
    """The model, taken to have learned in the windows that ``--window`` names.

    Raises:
        InputError: it sees another number of windows.
    """
    windows = named_windows(names)
    if len(windows) != model.window_count:
        raise InputError(
            f"--window {','.join(names)}: {len(windows)}, but the model sees {model.window_count}; name so many"
        )
    return replace(model, windows=windows)


def pixels_for(model: TrainedModel, pixels: Pixels, where: str) -> Pixels:
    """How a model sees slices: in its own windows where the files hold them, else in theirs.

    Args:
        model: whose windows count.
        pixels: what the files hold.
        where: the files, for messages.

    Raises:
        InputError: the model sees another number of windows.
    """
    own = pixels.seen_in(model.windows) if model.windows else None
    seen = own or pixels
    if seen.count != model.window_count:
        raise InputError(
            f"{where}: slices in {in_words(pixels.windows)}, but the model sees {in_words(model.windows)}; give it the "
            "scans themselves (NIfTI, DICOM), or a cohort that was imported with its windows or with --depth 16"
        )
    return seen


def other_window(model: TrainedModel, seen: Mapping[str, Pixels]) -> str | None:
    """What to say where slices are seen in other windows than the model learned in; None where all are known alike.

    Args:
        model: whose windows count.
        seen: how slices are seen, by the name of their patient or cohort.
    """
    if not model.windows:
        return None
    others = [name for name, pixels in seen.items() if pixels.windows and pixels.windows != model.windows]
    if not others:
        return None
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    return (
        f"WARNING: {others[0]}{more}: slices in {in_words(seen[others[0]].windows)}, but the model learned in "
        f"{in_words(model.windows)}: grey values mean other densities to it"
    )
