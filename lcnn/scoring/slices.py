"""Slices of scored patients, kept small: a PNG a patient, from which picture, truth and prediction can be shown again.

So the test part need not be opened a second time to be looked at. The channels of the PNG are the picture (red), the
truth (green; 128 is ignored) and the prediction (blue); its slices lie one below the other.

Legend: Z slices of a patient, N slices kept, H rows, W columns (native), S side of a kept slice.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from data_prep.common.errors import InputError, first_line
from data_prep.common.files import replacing
from data_prep.preprocessing.framing import to_stored
from data_prep.preprocessing.head import head_box
from data_prep.volumes.mask import from_grey, ignored_in, labelled, lesion_in, to_grey
from lcnn.scoring.evaluate import Case
from lcnn.scoring.overlay import shown_mask

LARGEST_SIDE = 256
"""Pixels; larger heads are made smaller."""
MOST_SLICES = 64
"""Slices kept of a patient; of more, those nearest to a lesion, true or predicted."""
NOTE = "slices"
"""Name of the text inside the PNG that says which slices it holds."""


@dataclass(frozen=True)
class KeptSlices:
    """Some slices of one patient, cropped to the head."""

    patient: str
    indices: tuple[int, ...]
    """Which slices of the patient, from 0, in order."""
    slices: int
    """How many the patient has."""
    picture_NSS: NDArray[np.uint8]
    true_NSS: NDArray[np.bool_]
    predicted_NSS: NDArray[np.bool_]
    ignored_NSS: NDArray[np.bool_]
    """What is not scored, outside of the truth."""


def keep_slices(case: Case) -> KeptSlices:
    """The slices of a scored patient that are worth keeping, at a size that is."""
    box = head_box(case.image_ZHW)
    side = min(box.side, LARGEST_SIDE)
    indices = slices_near(case.true_ZHW | case.predicted_ZHW, MOST_SLICES)

    def shown(mask_ZHW: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.stack([shown_mask(mask_ZHW[z], box, side) for z in indices])

    true_NSS = shown(case.true_ZHW)
    return KeptSlices(
        patient=case.result.patient,
        indices=tuple(indices),
        slices=len(case.image_ZHW),
        picture_NSS=np.stack([to_stored(case.image_ZHW[z], box, side) for z in indices]),
        true_NSS=true_NSS,
        predicted_NSS=shown(case.predicted_ZHW),
        ignored_NSS=np.zeros_like(true_NSS) if case.ignored_ZHW is None else shown(case.ignored_ZHW) & ~true_NSS,
    )


def slices_near(lesion_ZHW: NDArray[np.bool_], most: int) -> list[int]:
    """At most so many slices, in order: those nearest to one with lesion, or to the middle where there is none.

    A lesion that is in more slices than that is kept in every second of them, or third.
    """
    count = len(lesion_ZHW)
    with_lesion = np.flatnonzero(lesion_ZHW.any(axis=(1, 2)))
    step = max(1, -(-len(with_lesion) // most))  # rounded up
    candidates = np.arange(0, count, step)
    centres = with_lesion if len(with_lesion) else np.array([count // 2])
    distance = np.abs(candidates[:, None] - centres[None]).min(axis=1)
    nearest = np.argsort(distance, kind="stable")[:most]
    return sorted(int(z) for z in candidates[nearest])


def write_slices(folder: Path, case: Case) -> None:
    """Keep a scored patient's slices as ``<patient>.png``."""
    kept = keep_slices(case)
    side = kept.picture_NSS.shape[-1]
    channels = (
        kept.picture_NSS,
        to_grey(labelled(kept.true_NSS, kept.ignored_NSS)),
        to_grey(labelled(kept.predicted_NSS)),
    )
    pixels = np.stack([channel_NSS.reshape(-1, side) for channel_NSS in channels], axis=-1)
    note = PngImagePlugin.PngInfo()
    note.add_text(NOTE, json.dumps({"indices": kept.indices, "slices": kept.slices}))
    with replacing(folder / f"{kept.patient}.png") as partial:
        Image.fromarray(pixels).save(partial, format="PNG", pnginfo=note)


def read_slices_of(path: Path) -> KeptSlices:
    """What `write_slices` kept of one patient.

    Raises:
        InputError: the file is damaged, or no such picture.
    """
    try:
        with Image.open(path) as picture:
            note = json.loads(picture.info[NOTE])
            pixels = np.asarray(picture.convert("RGB"))
        indices = tuple(int(z) for z in note["indices"])
        stacked = pixels.reshape(len(indices), -1, pixels.shape[1], 3)
        slices = int(note["slices"])
        label_NSS = from_grey(stacked[..., 1])
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no kept slices ({first_line(error)}); delete it, the page goes without") from error
    return KeptSlices(
        patient=path.stem,
        indices=indices,
        slices=slices,
        picture_NSS=stacked[..., 0],
        true_NSS=lesion_in(label_NSS),
        predicted_NSS=stacked[..., 2] > 0,
        ignored_NSS=ignored_in(label_NSS),
    )
