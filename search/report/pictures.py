"""The pictures of the page: which slices of the test patients it holds, small enough for a phone to open.

Legend: N slices kept of a patient, S side of a slice.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lcnn.scoring.slices import KeptSlices

BUDGET_BYTES = 12 * 2**20
"""Of all pictures as they stand in the page."""
QUALITY = 80
"""Of the grey picture in lossy WebP; masks are kept exactly."""


@dataclass(frozen=True)
class Picture:
    """One slice: the picture, and a mask of which bit 5 is what is ignored, 6 the truth and 7 the prediction."""

    at: int
    """Which slice of the patient, from 1."""
    picture: str
    mask: str
    """Both as data URIs."""
    true: int
    predicted: int
    """Pixels of lesion that are scored."""

    @property
    def size(self) -> int:
        """Bytes in the page."""
        return len(self.picture) + len(self.mask)


@dataclass(frozen=True)
class Viewing:
    """The slices of one patient."""

    patient: str
    slices: int
    """How many the patient has."""
    side: int
    """Pixels."""
    has_ignored: bool
    """Whether some of it is not scored."""
    pictures: tuple[Picture, ...]

    @property
    def telling(self) -> int:
        """Position of the slice with the most lesion, true or else predicted."""
        areas = [(picture.true, picture.predicted) for picture in self.pictures]
        best = max(areas, default=(0, 0))
        return areas.index(best) if any(best) else len(areas) // 2


def viewings(kept: Iterable[KeptSlices], budget: int = BUDGET_BYTES) -> list[Viewing]:
    """The patients' slices that the page holds.

    First the slices with lesion of all patients, each patient's largest first, then those nearest to them, until the
    budget is spent; a patient of whom nothing fits is left out.

    Args:
        kept: one patient after the other; only one is in memory at its full size.
        budget: bytes.
    """
    encoded = [_viewing(patient) for patient in kept]
    queue = sorted(
        (distance, turn, order, position)
        for order, viewing in enumerate(encoded)
        for turn, (distance, position) in enumerate(_by_interest(viewing.pictures))
    )
    chosen: list[set[int]] = [set() for _ in encoded]
    for _, _, order, position in queue:
        budget -= encoded[order].pictures[position].size
        if budget < 0:
            break
        chosen[order].add(position)
    return [
        replace(viewing, pictures=tuple(viewing.pictures[i] for i in sorted(positions)))
        for viewing, positions in zip(encoded, chosen, strict=True)
        if positions
    ]


def _by_interest(pictures: Sequence[Picture]) -> list[tuple[int, int]]:
    """Distance to the nearest slice with lesion, and position, of every slice: the nearest first, then the largest."""
    with_lesion = [i for i, picture in enumerate(pictures) if picture.true or picture.predicted] or [len(pictures) // 2]
    distance = [min(abs(i - j) for j in with_lesion) for i in range(len(pictures))]
    order = sorted(range(len(pictures)), key=lambda i: (distance[i], -pictures[i].true - pictures[i].predicted, i))
    return [(distance[i], i) for i in order]


def _viewing(kept: KeptSlices) -> Viewing:
    pictures = tuple(
        Picture(
            at=index + 1,
            picture=_webp(kept.picture_NSS[n]),
            mask=_png(_bits(kept.ignored_NSS[n], 5) | _bits(kept.true_NSS[n], 6) | _bits(kept.predicted_NSS[n], 7)),
            true=int(kept.true_NSS[n].sum()),
            predicted=int((kept.predicted_NSS[n] & ~kept.ignored_NSS[n]).sum()),
        )
        for n, index in enumerate(kept.indices)
    )
    return Viewing(kept.patient, kept.slices, kept.picture_NSS.shape[-1], bool(kept.ignored_NSS.any()), pictures)


def _bits(mask_SS: NDArray[np.bool_], bit: int) -> NDArray[np.uint8]:
    return mask_SS * np.uint8(1 << bit)


def _webp(grey_SS: NDArray[np.uint8]) -> str:
    return _uri("webp", grey_SS, quality=QUALITY)


def _png(mask_SS: NDArray[np.uint8]) -> str:
    return _uri("png", mask_SS, optimize=True)


def _uri(kind: str, pixels_SS: NDArray[np.uint8], **options: int) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels_SS).save(buffer, format=kind.upper(), **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
